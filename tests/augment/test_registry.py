"""Augmentations by name."""

import re

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


@pytest.mark.parametrize('name', keepaug.list_augments())
def test_the_docstring_lists_every_hyper_parameter(name):
    entry = next(
        part for part in keepaug.create_augment.__doc__.split('* ')[1:] if name in part.partition(':')[0].split(', ')
    )
    shared = re.search(r'What mixes labels .*?:', keepaug.create_augment.__doc__, re.S)[0]
    mixes = name in shared.replace('\n', ' ').replace('(', '').split(', ') or name in shared
    common = {'model', 'num_classes', *(('prob', 'mixing', 'smoothing') if mixes else ())}
    of_cutmix = set(registry.hyper_parameters('cutmix')) if 'what cutmix' in ' '.join(entry.split()) else set()
    listed = {word.strip('.') for word in re.split(r'[\s,:;]+', entry)}
    own = set(registry.hyper_parameters(name)) - common - of_cutmix
    assert own <= listed
    known = {each for other in keepaug.list_augments() for each in registry.hyper_parameters(other)}
    assert (listed & known) - {'mode', 'windows'} <= set(registry.hyper_parameters(name))


def test_unknown_hyper_parameters_are_told_with_the_known():
    with pytest.raises(TypeError, match="keep-cut has no hyper-parameter 'taau'; it has .*tau.*cutmix_alpha"):
        keepaug.create_augment('keep-cut', taau=0.5)


IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    'x, target, words',
    [
        (IMAGES.to(torch.uint8), LABELS, 'floating point.*uint8'),
        (IMAGES, LABELS[:1], 'target.*images and 1 targets'),
        (IMAGES[0], LABELS, r'\(B, C, H, W\).*\(3, 8, 8\)'),
        (IMAGES.numpy(), LABELS, 'ndarray'),
        (IMAGES, LABELS.tolist(), 'list'),
        (IMAGES, LABELS.float(), r'int64.*float32.*target.long\(\)'),
        (IMAGES, LABELS + 1, 'from 0 to 2, got 3'),
        (IMAGES, LABELS - 1, 'from 0 to 2, got -1'),
    ],
)
@pytest.mark.parametrize('name', ['cutout', 'cutmix', 'keep-cut', 'joint-occlusion'])
def test_batches_that_cannot_be_taken_are_told(name, x, target, words):
    settings = dict(model=small_cnn(classes=3)) if name == 'keep-cut' else {}
    augment = keepaug.create_augment(name, num_classes=3, **settings)
    with pytest.raises(ValueError, match=words) as told:
        augment(x, target)
    assert '\n' not in str(told.value) and str(told.value).endswith('.')


def test_classes_of_the_model_are_its_own():
    model = small_cnn(classes=3)
    model.num_classes = 3
    keepaug.create_augment('keep-cut', model=model)
    with pytest.raises(ValueError, match='num_classes must be 3, the outputs of the model, got 10'):
        keepaug.create_augment('keep-cut', model=model, num_classes=10)
    with pytest.raises(ValueError, match='from 0 to 2, got 3'):
        keepaug.create_augment('keep-cut', model=model)(IMAGES, LABELS + 1)


def test_inference_mode_has_no_saliency():
    augment = keepaug.create_augment('keep-cut', model=small_cnn(classes=3), size=2, saliency='full')
    with torch.inference_mode():
        x = torch.zeros(4, 3, 8, 8)
        with pytest.raises(ValueError, match=r'inference_mode\(\).*no_grad'):
            augment(x, LABELS)
    with torch.no_grad():
        assert augment(x, LABELS)[0].shape == x.shape  # which came out of it is a plain image here


def test_pairs_are_told_from_ordinary_batches():
    paste = keepaug.create_augment('keep-paste', tau=None, size=2)
    with pytest.raises(ValueError, match='labels of the two halves differ.*ordinary batches'):
        paste(IMAGES, LABELS)
    assert len(paste(IMAGES, LABELS[:2].repeat(2))[0]) == 2


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
