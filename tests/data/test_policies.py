"""torchvision's policies by name, as they are and at one magnitude."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy

from keepaug.data.policies import NAMES, TorchvisionPolicy, create_policy
from keepaug.data.transform import Fading, TransformChanges


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def strengths(policy, operation, size=(24, 32)):
    """What an operation does at each magnitude of the policy's scale."""
    magnitudes, _ = policy._augmentation_space(10, size)[operation]
    return magnitudes.tolist()


@pytest.mark.parametrize('name', NAMES)
def test_without_a_magnitude_it_is_torchvisions(name, image):
    ours = create_policy(name)
    theirs = transforms.AutoAugment(AutoAugmentPolicy(name.removeprefix('tv-')), fill=128)
    assert ours.policies == theirs.policies
    for seed in range(40):
        results = []
        for policy in (ours, theirs):
            torch.manual_seed(seed)
            results.append(np.asarray(policy(image)))
        assert np.array_equal(*results)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('magnitude', [0, 12, 30])
def test_one_magnitude_for_all(name, magnitude):
    own, ours = create_policy(name), create_policy(f'{name}-m{magnitude}')
    for pair, changed in zip(own.policies, ours.policies, strict=True):
        for (operation, prob, old), (same, same_prob, new) in zip(pair, changed, strict=True):
            assert (operation, prob) == (same, same_prob)
            assert new == (None if old is None else magnitude)


def test_the_scale_of_magnitudes():
    """30 is what 9 of the policies' own ten is, and all operations grow with it."""
    own, ours = create_policy('tv-cifar10'), create_policy('tv-cifar10-m12')
    for operation in ('Rotate', 'ShearX', 'TranslateY', 'Brightness', 'Posterize', 'Solarize'):
        scale = strengths(ours, operation)
        assert len(scale) == 31
        assert (scale[0], scale[-1]) == pytest.approx((strengths(own, operation)[0], strengths(own, operation)[-1]))
        assert scale == sorted(scale, reverse=scale[0] > scale[-1])
    assert strengths(ours, 'Rotate')[12] == pytest.approx(12)


def test_magnitude_0_changes_nothing_but_colours(image):
    policy = create_policy('tv-svhn-m0')
    policy.policies = [(('Rotate', 1.0, 0), ('ShearX', 1.0, 0))]
    assert np.array_equal(policy(image), image)


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_grey_images_too(mode, image):
    policy = create_policy('tv-cifar10-m30')
    for seed in range(30):
        torch.manual_seed(seed)
        assert policy(image.convert(mode)).mode == mode


def test_workers_get_it_pickled():
    policy = pickle.loads(pickle.dumps(create_policy('tv-svhn-m7')))
    assert policy.magnitude == 7 and policy.policies == create_policy('tv-svhn-m7').policies
    assert repr(policy) == 'TorchvisionPolicy(svhn, magnitude=7)'


@pytest.mark.parametrize(
    'name, words',
    [
        ('tv-mnist', 'tv-mnist is not a policy: use tv-cifar10, tv-svhn, tv-imagenet'),
        ('tv-cifar10-n3', 'not a policy'),
        ('tv-cifar10-m', 'not a policy'),
        ('tv-', 'not a policy'),
        ('tv-cifar10-m31', 'must have a magnitude from 0 to 30, got 31'),
    ],
)
def test_refusals(name, words):
    with pytest.raises(ValueError, match=words):
        create_policy(name)


def create_training_transform(auto_augment):
    return create_transform((3, 32, 32), is_training=True, auto_augment=auto_augment, color_jitter=None)


@pytest.mark.parametrize('stock', ['original', 'rand-m9', 'augmix-m5'])
def test_exchange(stock):
    before, changes = create_training_transform(stock), TransformChanges(policy=create_policy('tv-cifar10-m6'))
    after = changes.apply(before)
    steps = [*after.crop.transforms, *after.policy.transforms, *after.convert.transforms]
    changed = [(old, new) for old, new in zip(before.transforms, steps, strict=True) if old is not new]
    assert len(changed) == 1 and changed[0][1].magnitude == 6
    with pytest.raises(ValueError, match='no policy in the loader .* to replace'):
        changes.apply(create_training_transform(None))


def test_pairs_and_fading_know_it():
    """The policy that stands in, and one that a transform has already."""
    changes = TransformChanges(policy=create_policy('tv-cifar10'), paired=True, strength=torch.zeros(()))
    once = changes.apply(create_training_transform('original'))
    again = TransformChanges(paired=True, strength=torch.zeros(())).apply(
        transforms.Compose([*once.crop.transforms, once.policy.transforms[0].step, *once.convert.transforms])
    )
    for pair in (once, again):
        (step,) = pair.policy.transforms
        assert isinstance(step, Fading) and isinstance(step.step, TorchvisionPolicy)
