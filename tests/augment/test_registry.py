"""Augmentations by name."""

import pytest
import torch

import keepaug
from keepaug.augment import BatchAugment, registry
from tests.functional.toys import small_cnn


@pytest.fixture
def registered(monkeypatch):
    """The registry as it is, given back afterwards."""
    monkeypatch.setattr(registry, '_AUGMENTS', dict(registry._AUGMENTS))


class Negative(BatchAugment):
    def augment(self, x, target, generator):
        return -x, target


def test_list_is_sorted_and_holds_ours():
    names = keepaug.list_augments()
    assert names == sorted(names)
    assert {'cutout', 'keep-cut'} <= set(names)


def test_register_list_create(registered):
    assert keepaug.register_augment('negative')(Negative) is Negative
    assert 'negative' in keepaug.list_augments()
    augment = keepaug.create_augment('negative', num_classes=3)
    assert type(augment) is Negative and augment.num_classes == 3 and augment.enabled and augment.last == {}
    x, target = torch.ones(2, 1, 2, 2), torch.tensor([0, 1])
    out, label = augment(x, target)
    assert torch.equal(out, -x) and label is target


def test_name_is_given_once(registered):
    keepaug.register_augment('negative')(Negative)
    with pytest.raises(ValueError, match="'negative' is already registered, by Negative"):
        keepaug.register_augment('negative')(type('Other', (Negative,), {}))
    assert type(keepaug.create_augment('negative')) is Negative


def test_unknown_name_tells_the_known():
    with pytest.raises(ValueError, match="no augmentation 'keep-cat'; there are .*keep-cut"):
        keepaug.create_augment('keep-cat')


@pytest.mark.parametrize('name', keepaug.list_augments())
def test_unknown_hyper_parameter(name):
    with pytest.raises(TypeError, match='taau'):
        keepaug.create_augment(name, model=small_cnn(), num_classes=5, taau=0.6)


def test_base_class_augments_nothing():
    with pytest.raises(NotImplementedError):
        BatchAugment()(torch.zeros(1, 1, 2, 2), None)


def test_compose_applies_in_order():
    class Add(BatchAugment):
        def augment(self, x, target, generator):
            return x + 1.0, target + torch.randint(100, target.shape, generator=generator)

    x, target = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    drawn = torch.randint(100, (2,), generator=torch.Generator().manual_seed(0))
    out, label = keepaug.augment.Compose([Add(), Negative()])(x, target, torch.Generator().manual_seed(0))
    assert (out == -1.0).all() and torch.equal(label, target + drawn)
    assert (keepaug.augment.Compose([Negative(), Add()])(x, target)[0] == 1.0).all()
