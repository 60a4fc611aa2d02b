"""What only CUDA shows: where tensors lie, float16 with its scaler, no waiting for the device, inductor.

Each test calls a function that takes the device, which a CPU runs for one method so that it is known to work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from keepaug.training.forward import Forward
from keepaug.training.loop import LoopSettings
from tests.augment.test_every_augment import EVERY, INSIDE, batch, create
from tests.functional.toys import small_cnn

ROWS = [row for row in EVERY if row.values[0] not in INSIDE]
FEW = [row for row in ROWS if row.values[0] in ('keep-cut', 'keep-paste', 'cutmix')]


def prepare(name: str, settings: dict, device: str) -> tuple[nn.Module, object, Tensor, Tensor]:
    """A model, an augmentation and a batch on a device."""
    x, target = batch(name, 8)
    model = small_cnn().to(device)
    return model, create(name, model, settings), x.to(device), target.to(device)


def check_placement(name: str, settings: dict, device: str) -> None:
    model, augment, x, target = prepare(name, settings, device)
    out, mixed = augment(x, target)
    assert out.device.type == mixed.device.type == device
    drawn = {key: value for key, value in augment.last.items() if torch.is_tensor(value)}
    assert drawn and all(value.device.type == device for value in drawn.values())


def check_float16(name: str, settings: dict, device: str) -> None:
    """Two steps under autocast with the scaler: finite, and the model learns."""
    model, augment, x, target = prepare(name, settings, device)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler(device)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(2):
        with torch.autocast(device, torch.float16):
            out, mixed = augment(x, target)
            loss = F.cross_entropy(model(out).float(), mixed)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert loss.isfinite() and out.isfinite().all()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters()))


class NoNumbersFromTheHost(TorchFunctionMode):
    """Makes an error of what, on CUDA, would wait until Python's numbers are copied there; `torch.full` does not."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor), f'{func.__name__} copies to the device: {args}'
        return func(*args, **(kwargs or {}))


@contextmanager
def never_waiting(device: str) -> Iterator[None]:
    """Makes every wait for the device an error; on a CPU, which nobody waits for, what is known to be one on CUDA."""
    if device == 'cpu':
        with NoNumbersFromTheHost():
            yield
        return
    torch.cuda.set_sync_debug_mode('error')
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode('default')


def check_no_waiting(name: str, settings: dict, device: str) -> None:
    """The second step; the first one sets things up."""
    model, augment, x, target = prepare(name, settings, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        out, mixed = augment(x, target)
        F.cross_entropy(model(out), mixed).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with never_waiting(device):
        step()


def check_loss_weight(device: str) -> None:
    """How much a batch counts whose size the other processes do not know."""
    forward = Forward(torch.device(device))
    settings = LoopSettings(forward, average_batch_size=8.0, world_size=2, uneven_ranks=True)
    with mock.patch('torch.distributed.all_reduce', lambda total: total.add_(24.0)), never_waiting(device):
        weight = settings.loss_weight(8)
    assert weight.device.type == device and float(weight) == 0.5


def check_compiled(name: str, settings: dict, device: str, backend: str = 'inductor') -> None:
    """A compiled model beside the eager pass."""
    model, augment, x, target = prepare(name, settings, device)
    forward = torch.compile(model, backend=backend)
    out, mixed = augment(x, target)
    loss = F.cross_entropy(forward(out), mixed)
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize('name, settings', ROWS)
def test_placement(name, settings):
    check_placement(name, settings, 'cuda')


@pytest.mark.gpu
@pytest.mark.parametrize('name, settings', ROWS)
def test_float16_with_the_scaler(name, settings):
    check_float16(name, settings, 'cuda')


@pytest.mark.gpu
@pytest.mark.parametrize('name, settings', ROWS)
def test_a_step_never_waits_for_the_device(name, settings):
    check_no_waiting(name, settings, 'cuda')


@pytest.mark.gpu
def test_a_weight_of_the_loss_never_waits_for_the_device():
    check_loss_weight('cuda')


@pytest.mark.gpu
def test_inductor():
    check_compiled(*FEW[0].values, 'cuda')


@pytest.mark.parametrize('name, settings', FEW)
def test_the_checks_work_on_a_cpu(name, settings):
    check_placement(name, settings, 'cpu')
    check_float16(name, settings, 'cpu')
    check_no_waiting(name, settings, 'cpu')


def test_the_check_of_the_weight_works_on_a_cpu():
    check_loss_weight('cpu')


def test_the_compiled_check_works_on_a_cpu():
    check_compiled(*FEW[0].values, 'cpu', backend='eager')
