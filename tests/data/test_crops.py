"""The papers' crop: padded by an eighth, placed uniformly, and put where timm's loader has its own."""

from argparse import Namespace
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_loader, create_transform
from torch.utils.data import Dataset
from torchvision.transforms import RandomCrop

from keepaug import prepare, wrap_dataset
from keepaug.data.crops import pad_crop
from keepaug.data.transform import TrainingTransform, TransformChanges


def _numbered(height: int, width: int) -> Image.Image:
    """An image whose red and green say row and column, plus one, so that padding is the only black."""
    rows, cols = np.mgrid[1 : height + 1, 1 : width + 1]
    return Image.fromarray(np.stack([rows, cols, rows * 0], -1).astype(np.uint8))


class OneImage(Dataset):
    transform = None

    def __init__(self, image: Image.Image):
        self.image = image

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.transform(self.image), 0


def test_offsets_are_uniform_over_all_81():
    torch.manual_seed(0)
    crop, image, n = pad_crop((32, 32)), _numbered(32, 32), 8100
    seen = Counter()
    for _ in range(n):
        pixels = np.asarray(crop(image))
        row, col = (int(pixels[16, 16, channel]) - 17 for channel in (0, 1))  # how far the crop moved
        assert -4 <= row <= 4 and -4 <= col <= 4
        seen[row, col] += 1
    assert len(seen) == 81
    # Chi-square with 80 degrees of freedom: 99.9% lies below 124.8.
    assert sum((count - n / 81) ** 2 / (n / 81) for count in seen.values()) < 124.8


def test_pixels_are_moved_and_padding_is_black():
    torch.manual_seed(1)
    image = _numbered(32, 32)
    padded = np.zeros((40, 40, 3), np.uint8)
    padded[4:36, 4:36] = np.asarray(image)
    for _ in range(50):
        pixels = np.asarray(pad_crop((32, 32))(image))
        assert any(
            np.array_equal(pixels, padded[top : top + 32, left : left + 32]) for top in range(9) for left in range(9)
        )


@pytest.mark.parametrize('shape, size', [((50, 70), (32, 32)), ((32, 32), (24, 48)), ((10, 10), (32, 32))])
def test_any_image_gives_the_size_asked_for(shape, size):
    assert pad_crop(size)(_numbered(*shape)).size == size[::-1]


def steps_of(transform: TrainingTransform) -> list:
    return [step for part in (transform.crop, transform.policy, transform.convert) for step in part.transforms]


def test_only_the_crop_is_exchanged():
    stock = create_transform((3, 32, 32), is_training=True, auto_augment='rand-m9-mstd0.5')
    changes = TransformChanges(crop=pad_crop)
    crop, *others = steps_of(changes.apply(stock))
    assert isinstance(crop.transforms[1], RandomCrop) and others == stock.transforms[1:]
    plain = create_transform((3, 32, 32), is_training=True, no_aug=True)
    assert steps_of(changes.apply(plain)) == plain.transforms


def test_three_stages_of_splits():
    dataset = wrap_dataset(OneImage(_numbered(32, 32)), prepare(Namespace(train_crop_mode='pad4')))
    stages = create_transform((3, 32, 32), is_training=True, separate=True)
    dataset.transform = stages
    (crop, *flips), *others = (stage.transforms for stage in dataset.transform)
    assert isinstance(crop.transforms[1], RandomCrop) and flips == stages[0].transforms[1:]
    assert others == [stage.transforms for stage in stages[1:]]


@pytest.mark.parametrize('workers', [0, 1])
def test_through_timms_loader(workers):
    args = prepare(Namespace(train_crop_mode='pad4'))
    dataset = wrap_dataset(OneImage(_numbered(32, 32)), args)
    loader = create_loader(
        dataset,
        (3, 32, 32),
        batch_size=8,
        is_training=True,
        train_crop_mode=args.train_crop_mode,
        color_jitter=0.0,
        num_workers=workers,
        device=torch.device('cpu'),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    x, _ = next(iter(loader))
    assert x.shape == (8, 3, 32, 32)
    # A random-resized crop would rescale: rows and columns would no longer be whole numbers one apart.
    rows = (x[:, 0] * 255).round()[:, 6:26, 16]
    assert ((rows[:, 1:] - rows[:, :-1]) == 1).all()
