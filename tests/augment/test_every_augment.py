"""One table of settings; every registered augmentation goes through all that a training run can put to it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug import create_augment, list_augments
from keepaug.augment import BatchAugment, registry
from keepaug.augment.recycled import SaliencyMaps
from tests.functional.toys import small_cnn

CLASSES = 5
# All that is registered, in the forms that take different paths; `model` and `num_classes` are added below.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    'attentive-cutmix': [dict(), dict(patches=3, grid=4, prob=0.5, mixing='elem', smoothing=0.1)],
    'cutmix': [dict(), dict(mixing='elem', cutmix_minmax=(0.2, 0.6))],
    'cutmix-variant': [dict(), dict(variant='fixed', mixing='elem'), dict(variant='one-hot', mixing='pair')],
    'cutout': [dict(size=8), dict(size=8, holes=2, prob=0.5)],
    'feature-cutmix': [dict(), dict(stages=(2,), mixing='elem')],
    'grid-mask': [dict(), dict(smallest=4, largest=9, keep=0.5, prob=0.5)],
    'joint-occlusion': [
        dict(),
        dict(mode='cutout', keep_image=0.5, only=True),
        dict(mode='saliency', layer='4', jitter=4),
    ],
    'keep-cut': [
        dict(size=8),
        dict(size=8, saliency='full', fill='pixel', prob=0.5),
        dict(size=8, tau=None, fill='rand'),
        dict(size=8, windows='overflow'),
        dict(size=8, saliency='recycled', prob=0.5),
        dict(mode='erase', max_count=3, saliency='low'),
        dict(mode='erase', fill='rand', prob=0.5, saliency='full'),
        dict(mode='cutmix', mixing='elem', smoothing=0.1),
        dict(mode='cutmix', windows='overflow'),
    ],
    'keep-paste': [
        dict(size=8),
        dict(size=8, saliency='full', prob=0.5),
        dict(size=8, tau=None, reprob=0.7, remode='rand', recount=2),
    ],
    'manifold-mixup': [dict(), dict(stages=(1,), mixing='pair', smoothing=0.1)],
    'mixup': [dict(mixing='pair'), dict(cutmix_alpha=1.0, mixing='elem', smoothing=0.1)],
}
EVERY = [
    pytest.param(name, settings, id=' '.join([name, *(f'{key}={value}' for key, value in settings.items())]))
    for name, forms in SETTINGS.items()
    for settings in forms
]
# These hook into the model, which must not be compiled before: tests/models/test_feature_mixing.py compiles it after.
INSIDE = ('feature-cutmix', 'manifold-mixup')


def batch(name: str, n: int = 4, channels: int = 3, height: int = 32, width: int = 32) -> tuple[Tensor, Tensor]:
    """A batch of n samples, in as many rows each as the augmentation takes."""
    rows = registry._AUGMENTS[name].rows_per_sample
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n * rows, channels, height, width, generator=generator)
    return x, (torch.arange(n) % CLASSES).repeat(rows)


def create(name: str, model: nn.Module, settings: dict[str, Any]) -> Callable:
    """An augmentation with all that it needs; of one that recycles saliency, a new batch is of images never seen."""
    if settings.get('saliency') != 'recycled':
        return create_augment(name, model=model, num_classes=CLASSES, **settings)
    maps = SaliencyMaps(400, device=next(model.parameters()).device)
    return Recycling(create_augment(name, num_classes=CLASSES, maps=maps, **settings))


class Recycling:
    """An augmentation together with where its images lie: whole, each with the number of its row."""

    def __init__(self, augment: BatchAugment):
        vars(self)['augment'] = augment

    def __getattr__(self, name: str) -> Any:
        return getattr(self.augment, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.augment, name, value)

    def __call__(self, x: Tensor, target: Tensor, *generator) -> tuple[Tensor, Tensor]:
        height, width = x.shape[-2:]
        whole = (height, width, 0, 0, width, height, 0, 0)
        where = [torch.arange(len(x), device=x.device), *(torch.full((len(x),), n, device=x.device) for n in whole)]
        return self.augment(x, target, *generator, where=torch.stack(where, 1))


def step(
    model: nn.Module, augment: BatchAugment, x: Tensor, target: Tensor, forward: nn.Module | None = None
) -> Tensor:
    """One training step of a model; `forward` is the form of it that is run, such as a compiled one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given, label = x.clone(), target.clone()
    out, mixed = augment(x, target)
    assert torch.equal(x, given) and torch.equal(target, label), 'inputs are not modified'
    assert out.dtype == x.dtype and out.device == x.device and out.shape[1:] == x.shape[1:]
    copies = 1 if getattr(augment, 'only', True) else 2
    assert len(out) == len(mixed) == len(x) // augment.rows_per_sample * copies and out.isfinite().all()
    assert mixed.ndim == 1 + augment.mixes_labels
    out = augment.recycle(out) if getattr(augment, 'recycled', None) is not None else out
    loss = F.cross_entropy((forward or model)(out).float(), mixed)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    assert loss.isfinite() and all(parameter.isfinite().all() for parameter in model.parameters())
    return loss.detach()


def test_table_is_complete():
    assert set(list_augments()) == set(SETTINGS)


@pytest.mark.parametrize('name, settings', EVERY)
@pytest.mark.parametrize(
    'shape',
    [
        pytest.param({}, id='plain'),
        pytest.param(dict(n=7), id='odd batch'),
        pytest.param(dict(n=1), id='batch of one'),
        pytest.param(dict(height=40, width=28), id='non-square'),
        pytest.param(dict(channels=1), id='one channel'),
    ],
)
def test_training_step(name, settings, shape):
    x, target = batch(name, **shape)
    model = small_cnn(x.shape[1])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(model, create(name, model, settings), x, target)
    assert any(not torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before))


@pytest.mark.parametrize('name, settings', EVERY)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(name, settings, dtype):
    x, target = batch(name)
    model = small_cnn().to(dtype)
    step(model, create(name, model, settings), x.to(dtype), target)


@pytest.mark.parametrize('name, settings', EVERY)
def test_autocast(name, settings):
    x, target = batch(name)
    model = small_cnn()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        step(model, create(name, model, settings), x, target)


@pytest.mark.parametrize('name, settings', EVERY)
def test_channels_last(name, settings):
    x, target = batch(name)
    model = small_cnn()
    augment = create(name, model, settings)
    drawn = [
        augment(images, target, torch.Generator().manual_seed(2))
        for images in (x, x.contiguous(memory_format=torch.channels_last))
    ]
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[1][0].is_contiguous(memory_format=torch.channels_last), 'the format a model is fast in is kept'


@pytest.fixture(scope='module')
def compiled() -> tuple[nn.Module, nn.Module]:
    """A model and its compiled form, which share their weights; compiled once for all methods."""
    torch.compiler.reset()
    model = small_cnn()
    return model, torch.compile(model, backend='aot_eager')


@pytest.mark.parametrize('name, settings', [row for row in EVERY if row.values[0] not in INSIDE])
def test_compiled_model_next_to_an_eager_pass(name, settings, compiled):
    model, forward = compiled
    x, target = batch(name)
    losses = []
    for run in (model, forward):
        model.load_state_dict(small_cnn().state_dict())
        model.zero_grad()
        model.train()
        torch.manual_seed(3)
        augment = create(name, model, settings)
        losses += [step(model, augment, x, target, run) for _ in range(2)]
    torch.testing.assert_close(losses[:2], losses[2:])


@pytest.mark.parametrize('name, settings', EVERY)
def test_switched_off(name, settings):
    x, target = batch(name)
    augment = create(name, small_cnn(), settings)
    augment.enabled = False
    out, label = augment(x, target)
    if augment.rows_per_sample == 1:
        assert out is x and label is target
    assert len(out) == len(label) == len(x) // augment.rows_per_sample and out.data_ptr() == x.data_ptr()
    assert augment.last == {}


@pytest.mark.parametrize('name, settings', EVERY)
def test_strength(name, settings):
    """Less is changed than at full strength, and at 0 nothing (of mixing: see its own tests)."""
    x, target = batch(name, 400, height=16, width=16)
    augment = create(name, small_cnn(), settings)
    shares = []
    for augment.strength in (1.0, 0.25):
        augment(x, target, torch.Generator().manual_seed(0))
        shares.append(augment.last['mask'].double().mean())
    assert augment.mixes_labels or 0.0 < shares[1] < 0.5 * shares[0]
    augment.strength = 0.0
    out, label = augment(x, target)
    assert len(out) == len(label) == len(x) // augment.rows_per_sample and out.data_ptr() == x.data_ptr()


@pytest.mark.parametrize('name, settings', EVERY)
def test_generator_makes_it_repeatable(name, settings):
    x, target = batch(name, 16)
    augment = create(name, small_cnn(), settings)
    stream = torch.get_rng_state()
    first, again, other = (augment(x, target, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not all(torch.equal(a, b) for a, b in zip(first, other))
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize('name, settings', EVERY)
def test_last_is_detached(name, settings):
    x, target = batch(name)
    augment = create(name, small_cnn(), settings)
    augment(x, target)
    drawn = [value for value in augment.last.values() if isinstance(value, Tensor)]
    assert drawn and not any(value.requires_grad for value in drawn)
