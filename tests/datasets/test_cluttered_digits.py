import hashlib
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_loader
from torch import nn

from keepaug.datasets import (
    EMBEDDED_DATASETS,
    EMBEDDED_PREFIX,
    ClutteredDigits,
    cluttered_digits,
    create_embedded_dataset,
)
from keepaug.datasets.cluttered_digits import BRIGHTEST_GROUND, LUMA_WEIGHTS, MIN_CONTRAST
from tests.processes import start

pytest.importorskip('sklearn')

NAME = 'keepaug/cluttered-digits'


@pytest.fixture(scope='module')
def train():
    return ClutteredDigits('train')


@pytest.fixture(scope='module')
def validation():
    return ClutteredDigits('validation')


def ground_of(dataset, index):
    """The colour of the ground, int64 (3,): that of most pixels."""
    red, green, blue = dataset.image(index).flatten(1).long()
    most_frequent = ((red * 256 + green) * 256 + blue).mode().values
    return torch.stack([most_frequent // 65536, most_frequent // 256 % 256, most_frequent % 256])


def luma(colours):
    return (colours.long().movedim(0, -1) * torch.tensor(LUMA_WEIGHTS)).sum(-1) / 1000


def test_sizes(train, validation):
    assert (len(train), len(validation)) == (4000, 1000)
    assert len(ClutteredDigits('train', num_samples=37)) == 37
    image, target = train[5]
    assert isinstance(image, Image.Image) and image.size == (40, 40) and image.mode == 'RGB'
    assert type(target) is int
    assert train.classes == [str(digit) for digit in range(10)]
    assert train.class_to_idx == {str(digit): digit for digit in range(10)}


def test_image_is_what_getitem_returns(train):
    assert np.array_equal(train.image(3).permute(1, 2, 0).numpy(), np.asarray(train[3][0]))
    assert train.image(3).dtype == torch.uint8 and train.image(3).shape == (3, 40, 40)
    assert train.target(3) == train[3][1]


def test_same_bytes_in_any_order():
    forward, backward = ClutteredDigits('train'), ClutteredDigits('train', num_samples=60)
    images = [forward.image(index) for index in range(60)]
    torch.manual_seed(1)
    for index in reversed(range(60)):
        assert torch.equal(backward.image(index), images[index])
    assert len({image.numpy().tobytes() for image in images}) == 60


def test_same_bytes_on_every_machine(train, validation):
    # A change here makes all results on this data set incomparable with earlier ones.
    digest = hashlib.sha256()
    for dataset in (train, validation):
        for index in range(50):
            digest.update(dataset.image(index).numpy().tobytes() + bytes([dataset.target(index)]))
    assert digest.hexdigest() == 'a254e0c1cecd3f903efd4a5c7b0a50cec882baf3b8d2ee6093abb19fbefcfbfa'


def test_global_streams_are_untouched(train):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train[11]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_splits_share_no_source(train, validation):
    assert not set(train.sources) & set(validation.sources)
    assert len(train.sources) + len(validation.sources) == 1797
    ink, targets = cluttered_digits.load_sources()
    assert not {source.tobytes() for source in train._ink} & {source.tobytes() for source in validation._ink}
    for dataset in (train, validation):
        assert np.array_equal(dataset._ink, ink[dataset.sources])
        share = np.bincount(targets[dataset.sources]) / np.bincount(targets)
        assert np.allclose(share, 0.2 if dataset is validation else 0.8, atol=0.01)


def test_targets_are_those_of_the_sources(train):
    _, targets = cluttered_digits.load_sources()
    for index in (0, 1, 777, len(train.sources), 3999):
        assert train.target(index) == targets[train.sources[index % len(train.sources)]]
    counts = np.bincount([train.target(index) for index in range(len(train))])
    assert counts.min() > 0.9 * len(train) / 10


@pytest.mark.parametrize(
    'split, canonical',
    [
        ('train', 'train'),
        ('training', 'train'),
        ('validation', 'validation'),
        ('val', 'validation'),
        ('valid', 'validation'),
        ('test', 'validation'),
        ('eval', 'validation'),
        ('evaluation', 'validation'),
    ],
)
def test_split_names(split, canonical):
    assert ClutteredDigits(split, num_samples=1).split == canonical


def test_box_is_tight(train):
    for index in range(100):
        mask, (left, top, right, bottom) = train.mask(index), train.box(index).tolist()
        assert mask.dtype == torch.bool and mask.shape == (40, 40)
        assert train.box(index).dtype == torch.int64
        assert mask.sum() == mask[top:bottom, left:right].sum() > 0
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()
        assert right - left <= 24 and 12 <= bottom - top <= 24


def test_mask_marks_the_digit(train):
    for index in range(100):
        image, mask, ground = train.image(index).long(), train.mask(index), ground_of(train, index)
        shades = image[:, mask] - ground[:, None]
        # Every pixel of the digit lies between the ground and one colour, that of full ink; rounding is by one at most.
        strongest = shades[:, luma(image[:, mask]).argmax()].double()
        opacity = (strongest @ shades.double()) / strongest.square().sum()
        assert (shades - strongest[:, None] * opacity).abs().max() <= 1.5
        assert opacity.min() > 0.3 and opacity.max() == 1


def test_contrast(train):
    for index in range(100):
        image, mask, ground = train.image(index), train.mask(index), ground_of(train, index)
        assert ground.max() <= BRIGHTEST_GROUND
        assert luma(image[:, mask]).max() - luma(ground) >= MIN_CONTRAST


def test_brighten():
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(256, (10000, 3), generator=generator).numpy()
    for ground in (np.zeros(3, int), np.array([85, 85, 85]), np.array([0, 0, 85])):
        brightened = cluttered_digits.brighten(colours, ground)
        contrast = (brightened - ground) @ LUMA_WEIGHTS / 1000
        assert contrast.min() >= MIN_CONTRAST and brightened.max() <= 255
        enough = (colours - ground) @ LUMA_WEIGHTS / 1000 >= MIN_CONTRAST
        assert np.array_equal(brightened[enough], colours[enough])
        assert contrast[~enough].max() <= MIN_CONTRAST + 1  # no further than it takes


def test_enlarge_is_bilinear():
    ink, _ = cluttered_digits.load_sources()
    for size in (16, 19, 24):
        source = torch.from_numpy(ink[:50]).double().unsqueeze(1)
        reference = nn.functional.interpolate(source, size, mode='bilinear').squeeze(1)
        expected = (reference / cluttered_digits.OPAQUE_INK * 255).clamp(max=255)
        expected[reference < cluttered_digits.FAINTEST_INK - 1e-9] = 0
        assert (torch.from_numpy(cluttered_digits.enlarge(ink[:50], size)) - expected).abs().max() <= 1 + 1e-9


def test_clutter_surrounds_the_digit(train):
    shares = torch.stack(
        [
            ((train.image(index) != ground_of(train, index)[:, None, None]).any(0) & ~train.mask(index)).float().mean()
            for index in range(100)
        ]
    )
    assert shares.min() > 0.02 and 0.1 < shares.mean() < 0.3


def test_places_are_uniform(train):
    centres = torch.stack([train.box(index) for index in range(600)]).float().view(-1, 2, 2).mean(1)
    # Uniform over what the box leaves free: on average the middle, on both axes, within four standard errors.
    assert (centres.mean(0) - 20).abs().max() < 4 * centres.std(0).max() / 600**0.5
    assert centres[:, 0].std() > 6 and centres[:, 1].std() > 5


def test_index_protocol():
    dataset = ClutteredDigits('val', num_samples=3)
    assert torch.equal(dataset.image(-1), dataset.image(2))
    assert torch.equal(dataset.image(torch.tensor(1)), dataset.image(np.int64(1)))
    for method in (dataset.__getitem__, dataset.image, dataset.mask, dataset.box, dataset.target):
        for index in (3, -4):
            with pytest.raises(IndexError, match='3 images'):
                method(index)
    assert len(list(dataset)) == 3


def test_transforms(train):
    dataset = ClutteredDigits(transform=lambda image: image.size, target_transform=lambda target: -target)
    assert dataset[4] == ((40, 40), -train.target(4))
    dataset.transform = None
    assert np.array_equal(np.asarray(dataset[4][0]), np.asarray(train[4][0]))
    assert ClutteredDigits(input_img_mode='L')[0][0].mode == 'L'


def test_pickle(train):
    assert torch.equal(pickle.loads(pickle.dumps(train)).image(9), train.image(9))


@pytest.mark.parametrize('num_workers', [0, 2])
def test_create_loader(validation, num_workers):
    dataset = create_embedded_dataset(NAME, split='val', num_samples=48)
    loader = create_loader(
        dataset,
        input_size=(3, 40, 40),
        batch_size=16,
        is_training=False,
        use_prefetcher=True,
        crop_pct=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_workers=num_workers,
        device=torch.device('cpu'),
        persistent_workers=False,
    )
    batches = list(loader)
    images, targets = torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
    assert torch.equal((images * 255).round().to(torch.uint8), torch.stack([validation.image(i) for i in range(48)]))
    assert targets.tolist() == [validation.target(index) for index in range(48)]


def test_create_embedded_dataset():
    assert all(name.startswith(EMBEDDED_PREFIX) for name in EMBEDDED_DATASETS)
    dataset = create_embedded_dataset(NAME, split='train', num_samples=None)
    assert isinstance(dataset, ClutteredDigits) and len(dataset) == 4000
    with pytest.raises(ValueError, match=f'keepaug/mnist.*{NAME}'):
        create_embedded_dataset('keepaug/mnist', split='train')


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(split='holdout'), "split = 'holdout'.*train, training, validation"),
        (dict(num_samples=0), 'num_samples = 0'),
        (dict(num_samples=-3), 'num_samples = -3'),
    ],
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ClutteredDigits(**kwargs)


def test_missing_scikit_learn(monkeypatch):
    cluttered_digits.load_sources.cache_clear()
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[demo\]'"):
        ClutteredDigits()


@pytest.mark.xdist_group('processes')
def test_scripts_leave_scikit_learn_alone():
    """What begins with both scripts imported has not imported it."""
    process = start(exec, 'import keepaug.datasets, sys; sys.exit("sklearn" in sys.modules)')
    process.join()
    assert process.exitcode == 0
