"""Data sets by the names that `--dataset` takes: one that comes with keepaug, and others' as they are distributed."""

from collections.abc import Callable
from typing import Any

from timm.data import ImageDataset
from torch.utils.data import Dataset

from .cluttered_digits import ClutteredDigits
from .cub import read_cub
from .label_subsets import balanced_subset
from .listed_images import ListedImages
from .mini_imagenet import read_mini_imagenet
from .splits import split_names
from .tiny_imagenet import read_tiny_imagenet

__all__ = [
    'BOXED_DATASETS',
    'EMBEDDED_DATASETS',
    'EMBEDDED_PREFIX',
    'UNPACKED_DATASETS',
    'ClutteredDigits',
    'ListedImages',
    'balanced_subset',
    'create_embedded_dataset',
    'read_cub',
    'read_mini_imagenet',
    'read_tiny_imagenet',
    'split_names',
]

# Names that start like this are ours, as `torch/` and `hfds/` are others' in timm.
EMBEDDED_PREFIX = 'keepaug/'

EMBEDDED_DATASETS: dict[str, Callable[..., Dataset]] = {
    'keepaug/cluttered-digits': ClutteredDigits,
}

# From folder and split to the images of what was unpacked there.
UNPACKED_DATASETS: dict[str, Callable[[str, str], ListedImages]] = {
    'keepaug/cub': read_cub,
    'keepaug/mini-imagenet': read_mini_imagenet,
    'keepaug/tiny-imagenet': read_tiny_imagenet,
}

# Those that know the boxes around their objects.
BOXED_DATASETS = ('keepaug/cluttered-digits', 'keepaug/cub', 'keepaug/tiny-imagenet')


def create_embedded_dataset(
    name: str,
    split: str = 'validation',
    num_samples: int | None = None,
    root: str | None = None,
    input_img_mode: str = 'RGB',
    **kwargs: Any,
) -> Dataset:
    """Create a data set whose name is ours.

    Args:
        name: The name as `--dataset` takes it, with its prefix, such as `keepaug/cluttered-digits`.
        split: `train` or `validation`, or what timm also calls them.
        num_samples: Number of images; the data set's own number if None.
        root: Where the archive of `UNPACKED_DATASETS` was unpacked.
        input_img_mode: PIL's name of the mode that the transform receives.
        **kwargs: What else the class of the data set takes.

    Returns:
        A map-style data set as `timm.data.create_loader` takes it.

    Raises:
        ValueError: If the name is unknown, or for a reason of the data set's own: an unknown split, a package or a
            file missing.
    """
    if name in EMBEDDED_DATASETS:
        return EMBEDDED_DATASETS[name](split=split, num_samples=num_samples, input_img_mode=input_img_mode, **kwargs)
    if name not in UNPACKED_DATASETS:
        known = ', '.join([*EMBEDDED_DATASETS, *UNPACKED_DATASETS])
        raise ValueError(f'{name!r} is not one of the data sets of keepaug, which are {known}.')
    if not root:
        raise ValueError(f'{name} needs the folder that its archive was unpacked to.')
    if num_samples is not None:
        raise ValueError(f'{num_samples = } is not possible for {name}, whose images come from its files.')
    return ImageDataset(root, reader=UNPACKED_DATASETS[name](root, split), input_img_mode=input_img_mode, **kwargs)
