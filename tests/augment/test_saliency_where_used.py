"""Only images whose region is drawn by saliency cost a pass; what comes out is the same."""

import pytest
import torch
from torch import Tensor, nn

from keepaug import create_augment
from keepaug.augment import saliency
from keepaug.augment.saliency import rows_to_measure
from tests.functional.toys import small_cnn

BATCH = 64
USES = {
    'mixup takes its share': dict(
        name='keep-cut', mode='cutmix', mixup_alpha=0.2, mixing='elem', num_classes=5, cutmix_minmax=(0.5, 0.5)
    ),
    'mixing at a probability': dict(name='keep-cut', mode='cutmix', prob=0.3, mixing='elem', num_classes=5),
    'cutout at a probability': dict(name='keep-cut', size=8, prob=0.3),
    'erasing at a probability': dict(name='keep-cut', mode='erase', max_count=2, prob=0.3),
    'paste at a probability': dict(name='keep-paste', size=8, prob=0.3),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(BATCH * rows, 3, 16, 16, generator=seeded())
    return x, torch.randint(5, (BATCH,), generator=seeded()).repeat(rows)


def record_batches(model: nn.Module) -> list[int]:
    """How many images each call of a model sees from now on."""
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    return seen


def create(use: str, model: nn.Module | None, **settings):
    return create_augment(model=model, saliency='full', **USES[use] | settings)


@pytest.mark.parametrize('use', USES)
def test_a_pass_sees_what_is_used_and_the_result_is_that_of_all(use, monkeypatch):
    model = small_cnn()
    augment = create(use, model)
    x, target = batch(augment.rows_per_sample)
    augment(x, target, seeded(1))
    seen = record_batches(model)
    out, label = augment(x, target, seeded(1))
    used = augment.last['boxes'].flatten(1).any(1)
    # Up to a step of an eighth of the batch; of CutMix's boxes some are smaller than a pixel.
    assert seen == [seen[0]] and int(used.sum()) <= seen[0] <= int(used.sum()) + 10 and seen[0] < BATCH
    maps = augment.last['saliency']
    assert maps[used].flatten(1).any(1).all() and not maps.flatten(1).any(1).all()

    monkeypatch.setattr(saliency, 'rows_to_measure', lambda used: torch.arange(len(used)))
    full = create(use, model)
    wanted, wanted_label = full(x, target, seeded(1))
    assert seen[1:] == [BATCH]
    torch.testing.assert_close(maps[used], full.last['saliency'][used])
    assert torch.equal(out, wanted) and torch.equal(label, wanted_label)


@pytest.mark.parametrize('use', ['cutout at a probability', 'mixing at a probability', 'paste at a probability'])
def test_no_image_used_no_pass(use):
    model = small_cnn()
    augment = create(use, model, prob=0.0)
    x, target = batch(augment.rows_per_sample)
    seen = record_batches(model)
    augment(x, target, seeded())
    assert not seen and not augment.last['mask'].any()


def test_all_are_measured_where_the_host_does_not_see_who_is_used():
    """A pair's coin is the device's, which alone knows the pairs."""
    model = small_cnn()
    augment = create('mixing at a probability', model, mixing='pair')
    x, target = batch()
    source, device = augment.source, 'meta'
    assert augment.mixer.flip_coin(0.5, torch.zeros(BATCH, dtype=torch.long, device=device), None).device.type == device
    seen = record_batches(model)
    source(x, target, used=torch.zeros(BATCH, dtype=torch.bool, device=device))
    assert seen == [BATCH]


def test_rows_to_measure():
    used = torch.tensor([False, True, False, False, True, False, False, False])
    assert rows_to_measure(used).tolist() == [1, 4], 'one by one in a batch of eight'
    for size in (1, 7, 8, 100, 512):
        counts = set()
        for share in torch.linspace(0, 1, 200):
            used = torch.rand(size, generator=seeded(int(1000 * share))) < share
            rows = rows_to_measure(used)
            assert torch.equal(rows[: int(used.sum())].sort().values, used.nonzero()[:, 0])
            assert len(rows.unique()) == len(rows)
            counts.add(len(rows))
        assert len(counts - {0}) <= 8
    assert len(rows_to_measure(torch.zeros(4, dtype=torch.bool))) == 0


def test_the_layout_stays_the_models():
    model = small_cnn().to(memory_format=torch.channels_last)
    augment = create('cutout at a probability', model)
    x, target = batch()
    layouts = []
    model.register_forward_pre_hook(
        lambda module, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    augment(x.contiguous(memory_format=torch.channels_last), target, seeded())
    assert layouts == [True]
