"""The training loop on models of a few numbers, against what can be worked out by hand."""
import pytest
import torch
from timm.task import ClassificationTask
from torch import nn

from keepaug.engine import LoopSettings, train_one_epoch
from keepaug.engine.device import Precision


class Counted(torch.optim.SGD):
    """Plain descent that keeps the gradient of every update."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.)
        self.gradients = []

    def step(self, closure=None):
        self.gradients.append(self.param_groups[0]['params'][0].grad.clone())
        return super().step(closure)


def _settings(**changes) -> LoopSettings:
    return LoopSettings(device=torch.device('cpu'), precision=Precision(), **changes)


def _task(weight: nn.Parameter) -> ClassificationTask:
    """The loss of a batch is weight x mean of the inputs, so that gradients name the batches they come from."""
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return self.weight * x

    return ClassificationTask(Scale(), criterion=lambda output, target: output.mean(), verbose=False)


def _batches(values, size: int = 2):
    return [(torch.full((size, 1, 1, 1), float(value)), torch.zeros(size, dtype=torch.long)) for value in values]


@pytest.mark.parametrize('batches, accum', [(7, 4), (6, 4), (8, 4), (3, 5), (5, 2), (4, 1), (5, 3)])
def test_trailing_group_is_one_update_divided_by_its_own_number(batches, accum):
    weight = nn.Parameter(torch.ones(()))
    optimizer = Counted([weight])
    values = [2. ** i for i in range(batches)]
    train_one_epoch(0, _task(weight), _batches(values), optimizer, _settings(grad_accum_steps=accum))
    groups = [values[start:start + accum] for start in range(0, batches, accum)]
    assert [gradient.item() for gradient in optimizer.gradients] == pytest.approx(
        [sum(group) / len(group) for group in groups])


def test_loss_is_weighted_by_batch_size():
    weight = nn.Parameter(torch.ones(()))
    batches = _batches([1.], size=3) + _batches([5.], size=1)
    loss = train_one_epoch(0, _task(weight), batches, Counted([weight]), _settings())['loss']
    assert loss == pytest.approx((3 * 1 + 1 * 5) / 4)


@pytest.mark.parametrize('scale, power', [('none', 0.), ('sqrt', .5), ('linear', 1.)])
def test_batch_loss_scale(scale, power):
    weight = nn.Parameter(torch.ones(()))
    optimizer = Counted([weight])
    train_one_epoch(
        0, _task(weight), _batches([1.], size=8), optimizer, _settings(average_batch_size=2., batch_loss_scale=scale))
    assert optimizer.gradients[0].item() == pytest.approx(4 ** power)


@pytest.mark.parametrize('mode, value, wanted', [('value', 0.5, 0.5), ('norm', 0.25, 0.25)])
def test_clipping(mode, value, wanted):
    weight = nn.Parameter(torch.ones(()))
    optimizer = Counted([weight])
    train_one_epoch(0, _task(weight), _batches([8.]), optimizer, _settings(clip_grad=value, clip_mode=mode))
    assert optimizer.gradients[0].item() == pytest.approx(wanted, rel=1e-4)


class Updates:
    """Stands for scheduler and saver: notes what the loop calls."""

    def __init__(self):
        self.updates, self.recoveries = [], []

    def step_update(self, num_updates):
        self.updates.append(num_updates)

    def save_recovery(self, epoch, batch_idx):
        self.recoveries.append((epoch, batch_idx))


def test_update_count_and_recovery():
    weight = nn.Parameter(torch.ones(()))
    notes = Updates()
    train_one_epoch(
        2, _task(weight), _batches(range(7)), Counted([weight]), _settings(grad_accum_steps=2, recovery_interval=3),
        scheduler=notes, saver=notes)
    assert notes.updates == [2 * 4 + n for n in (1, 2, 3, 4)]
    assert notes.recoveries == [(2, 2)]
