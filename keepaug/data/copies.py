"""Batch augmentation: several copies of each sample in one batch, each preprocessed on its own.

Hoffer et al., Augment Your Batch, 2019; Occlusions, section 4.6. Not to be confused with timm's `--aug-repeats`, which
also draws each sample several times but deals its copies out to different processes, so that no batch holds two of
them, and which decodes the image anew for each.
"""
from collections.abc import Callable

import torch
from PIL import Image
from timm.data.scheduled_sampler import ScheduledTransformDataset
from torch.utils.data import Dataset, default_collate

from keepaug.data.wrapped import WrappedDataset

Transform = Callable[[Image.Image], torch.Tensor | tuple]


class Copies:
    """A transform applied several times to one decoded image.

    Where the transform gives several views, such as clean and augmented, those of a kind stay together: all clean
    copies, then all augmented ones.
    """

    def __init__(self, transform: Transform, copies: int):
        self.transform = transform
        self.copies = copies

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transform}, copies={self.copies})'

    def __call__(self, image: Image.Image) -> tuple:
        copies = [self.transform(image) for _ in range(self.copies)]
        if not isinstance(copies[0], tuple):
            return tuple(copies)
        return tuple(view for views in zip(*copies) for view in views)


def collate_splits(batch: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of several views each, without the prefetcher: all first views, then all second ones, as timm's does."""
    views, target = default_collate(batch)
    return torch.cat(list(views)), target.repeat(len(views), *[1] * (target.ndim - 1))


def change_transform(dataset: Dataset, change: Callable[[Transform], Transform]) -> None:
    """Puts another transform in place of that which timm's loader gave to a training set, before workers start.

    Args:
        dataset: A loader's data set, whatever wraps it, map-style or iterable.
        change: Takes the transform of decoded images, gives the new one; called for each image size of the schedule.
    """
    if isinstance(dataset, ScheduledTransformDataset):
        dataset.transforms = tuple(map(change, dataset.transforms))
        return
    while isinstance(dataset, WrappedDataset):
        dataset = dataset.dataset
    dataset.transform = change(dataset.transform)
