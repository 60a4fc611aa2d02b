"""What the cheaper passes see is what the full one sees, on models that have learned something."""

import pytest
import torch
import torch.nn.functional as F

import keepaug
from keepaug.augment.saliency import PASSES, SaliencySource, low_size
from keepaug.models.resolution import ResizedTwin
from tests.functional.trained import SIZE, accuracy, images, rank_correlation, trained


@pytest.mark.parametrize('kind', PASSES)
def test_maps_agree_with_the_full_ones_and_find_the_evidence(kind):
    model = trained()
    x, target, boxes = images(64, 0)
    saliency = SaliencySource(model, kind)(x, target)
    assert rank_correlation(SaliencySource(model, 'full')(x, target), saliency).mean() > 0.3
    on_pattern = sum(
        (saliency[i, :, top:bottom, left:right].mean() > saliency[i].mean()).item()
        for i, (left, top, right, bottom) in enumerate(boxes.tolist())
    )
    assert on_pattern > 0.8 * len(x)


@pytest.mark.parametrize('kind', PASSES)
def test_unlabelled_images_are_cut_by_what_the_model_sees(kind):
    """Consistency training has no labels; the largest logit stands for them (KeepAugment, section 4.3)."""
    model = trained()
    x, _, _ = images(16, 0)
    source = model.early_classifier() if PASSES[kind].early else model
    seen = low_size((SIZE, SIZE), 0.5) if PASSES[kind].low else None
    cut = keepaug.create_augment('keep-cut', model=model, size=8, saliency=kind)
    out, target = cut(x, None, torch.Generator().manual_seed(0))
    assert target is None
    with torch.no_grad():
        copy = x if seen is None else F.interpolate(x, size=seen, mode='bicubic', antialias=True)
        predicted = source(copy).argmax(1)
    expected, _ = cut(x, predicted, torch.Generator().manual_seed(0))
    assert torch.equal(out, expected) and not torch.equal(out, x)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['levit_128s', 'visformer_tiny'])
def test_resampled_tables_agree(name):
    size = 2 * SIZE
    model = trained(name, steps=50, size=size, img_size=size)
    assert accuracy(model, size) > 0.9
    x, target, _ = images(32, 0, size)
    source = SaliencySource(model, 'low')
    assert isinstance(source.resolve((size, size), x)[0], ResizedTwin)
    assert rank_correlation(SaliencySource(model, 'full')(x, target), source(x, target)).mean() > 0.3
