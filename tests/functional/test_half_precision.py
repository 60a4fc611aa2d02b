"""Maps of a trained model in half precision are those of float32, for every pass."""

import copy

import pytest
import torch

from keepaug.augment.saliency import PASSES, SaliencySource
from tests.functional.trained import accuracy, images, rank_correlation, trained

HALF = [torch.float16, torch.bfloat16]


@pytest.fixture(scope='module')
def model():
    return trained()


def test_the_model_has_learned(model):
    assert accuracy(model) > 0.8 and accuracy(model.early_classifier()) > 0.4


@pytest.mark.parametrize('how', ['autocast', 'weights'])
@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('kind', PASSES)
def test_maps_agree(model, kind, dtype, how):
    x, target, _ = images(16, 0)
    exact = SaliencySource(model, kind)(x, target)
    if how == 'weights':
        half = SaliencySource(copy.deepcopy(model).to(dtype), kind)(x.to(dtype), target)
    else:
        with torch.autocast('cpu', dtype=dtype):
            half = SaliencySource(model, kind)(x, target)
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert rank_correlation(exact, half).mean() > 0.9
    # Nothing is flushed to zero.
    assert ((half == 0.0) & (exact > 0.0)).float().mean() < 0.01


@pytest.mark.parametrize('kind', PASSES)
def test_tiny_gradients_are_not_flushed(model, kind):
    """A head a million times weaker, in float16: gradients below its smallest number."""
    x, target, _ = images(8, 0)
    exact = SaliencySource(model, kind)(x, target)
    weak = copy.deepcopy(model)
    with torch.no_grad():
        for head in (weak.head, weak.backbone.get_classifier()):
            head.weight.mul_(1e-4)
    with torch.autocast('cpu', dtype=torch.float16):
        half = SaliencySource(weak, kind)(x, target)
    assert rank_correlation(exact, half).mean() > 0.9
    assert ((half == 0.0) & (exact > 0.0)).float().mean() < 0.01
