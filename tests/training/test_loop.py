"""The training loop on models of a few numbers, against what can be worked out by hand."""

import itertools
import math
import re
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from timm.task import ClassificationTask
from torch import nn

from keepaug.console import RunFailed
from keepaug.training import loop
from keepaug.training.loop import LoopSettings, train_one_epoch
from keepaug.training.wrapped_task import WrappedTask


class Counted(torch.optim.SGD):
    """Plain descent that keeps the gradient of every update."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.0)
        self.gradients = []

    def step(self, closure=None):
        self.gradients.append(self.param_groups[0]['params'][0].grad.clone())
        return super().step(closure)


def _settings(**changes) -> LoopSettings:
    return LoopSettings(**changes)


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
    values = [2.0**i for i in range(batches)]
    train_one_epoch(0, _task(weight), _batches(values), optimizer, _settings(grad_accum_steps=accum))
    groups = [values[start : start + accum] for start in range(0, batches, accum)]
    assert [gradient.item() for gradient in optimizer.gradients] == pytest.approx(
        [sum(group) / len(group) for group in groups]
    )


@pytest.mark.parametrize('batches, accum, updates', [(4, 1, 4), (7, 3, 3), (2, 5, 1)])
def test_a_task_is_told_which_share_of_the_updates_is_done(batches, accum, updates):
    """As each batch begins; the batches of one update see the same share."""
    weight, told = nn.Parameter(torch.ones(())), []

    class Telling(WrappedTask):
        def set_step(self, progress):
            told.append(progress)

        def forward(self, input, target):
            return self.task(input, target)

    settings = _settings(grad_accum_steps=accum, scheduled_epochs=3)
    for epoch in range(2):
        train_one_epoch(epoch, Telling(_task(weight)), _batches(range(batches)), Counted([weight]), settings)
    wanted = [(epoch * updates + batch // accum) / (3 * updates) for epoch in range(2) for batch in range(batches)]
    assert told == pytest.approx(wanted) and told[0] == 0.0


def test_loss_is_weighted_by_batch_size():
    weight = nn.Parameter(torch.ones(()))
    batches = _batches([1.0], size=3) + _batches([5.0], size=1)
    loss = train_one_epoch(0, _task(weight), batches, Counted([weight]), _settings())['loss']
    assert loss == pytest.approx((3 * 1 + 1 * 5) / 4)


def test_an_epoch_without_any_finite_loss_ends_the_run():
    def train(*values: float) -> float:
        weight = nn.Parameter(torch.ones(()))
        return train_one_epoch(3, _task(weight), _batches(values), Counted([weight]), _settings())['loss']

    assert math.isnan(train(1.0, math.nan, math.nan))
    with pytest.raises(RunFailed, match='not finite in any batch of epoch 3'):
        train(math.nan, math.inf)
    assert train() == 0.0, 'as of a loader without batches'


class Halves(nn.Module):
    """A task that takes two rows per sample, as those around keep-paste do, and uses the last ones."""

    rows_per_sample = 2

    def __init__(self, task: ClassificationTask):
        super().__init__()
        self.task = task

    def forward(self, x, target):
        rows = len(x) // 2
        return self.task(x[rows:], target[:rows])

    def __getattr__(self, name):
        return super().__getattr__(name) if name == 'task' else getattr(self.task, name)


@pytest.mark.parametrize('target_rows', [1, 2])
def test_pairs_count_once(target_rows, tmp_path, caplog, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(loop, 'time', SimpleNamespace(time=lambda: float(next(clock))))
    weight = nn.Parameter(torch.ones(()))
    batches = [
        (
            torch.cat([torch.zeros(size, 1, 4, 4), torch.full((size, 1, 4, 4), value)]),
            torch.zeros(size * target_rows, dtype=torch.long),
        )
        for size, value in ((3, 1.0), (1, 5.0))
    ]
    optimizer = Counted([weight])
    with caplog.at_level('INFO', 'train'):
        settings = _settings(average_batch_size=2.0, batch_loss_scale='linear', log_interval=1, image_dir=str(tmp_path))
        loss = train_one_epoch(0, Halves(_task(weight)), batches, optimizer, settings)['loss']
    # The mean is weighted by size, the gradient by size / 2; pairs taken for two samples would double that.
    assert loss == pytest.approx((3 * 1 + 1 * 5) / 4)
    assert [gradient.item() for gradient in optimizer.gradients] == pytest.approx([1.5, 2.5])
    for record, size in zip(caplog.records, (3, 1), strict=True):
        seconds, rate = re.search(r'Time: ([\d.]+)s, +([\d.]+)/s', record.message).groups()
        assert float(rate) * float(seconds) == pytest.approx(size, rel=0.02)  # the line rounds
    assert Image.open(tmp_path / 'train-batch-0.jpg').size == (3 * 4, 4)


@pytest.mark.parametrize('scale, power', [('none', 0.0), ('sqrt', 0.5), ('linear', 1.0)])
def test_batch_loss_scale(scale, power):
    weight = nn.Parameter(torch.ones(()))
    optimizer = Counted([weight])
    settings = _settings(average_batch_size=2.0, batch_loss_scale=scale)
    loss = train_one_epoch(0, _task(weight), _batches([1.0], size=8), optimizer, settings)['loss']
    assert optimizer.gradients[0].item() == pytest.approx(4**power)
    assert loss == 1.0, 'the loss of the images, as stock logs it'


@pytest.mark.parametrize('mode, value, wanted', [('value', 0.5, 0.5), ('norm', 0.25, 0.25)])
def test_clipping(mode, value, wanted):
    weight = nn.Parameter(torch.ones(()))
    optimizer = Counted([weight])
    train_one_epoch(0, _task(weight), _batches([8.0]), optimizer, _settings(clip_grad=value, clip_mode=mode))
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
        2,
        _task(weight),
        _batches(range(7)),
        Counted([weight]),
        _settings(grad_accum_steps=2, recovery_interval=3),
        scheduler=notes,
        saver=notes,
    )
    assert notes.updates == [2 * 4 + n for n in (1, 2, 3, 4)]
    assert notes.recoveries == [(2, 2)]
