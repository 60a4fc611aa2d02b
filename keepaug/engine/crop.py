"""The papers' standard augmentation of CIFAR: pad, random crop, flip; and how it enters timm's loader."""
from collections.abc import Callable

from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.utils.data import Dataset, IterableDataset
from torchvision import transforms

from keepaug.engine.wrapped_dataset import WrappedDataset

# The papers pad 32 px images by 4 on each side.
PAD_FRACTION = 8


def pad_crop(size: tuple[int, int]) -> Callable:
    """Resizes the shorter edge to the crop's if needed, pads by an eighth with black, and crops at random.

    Args:
        size: Crop (H, W) in pixels.
    """
    padding = (size[1] // PAD_FRACTION, size[0] // PAD_FRACTION)
    resize = transforms.Resize(min(size), interpolation=transforms.InterpolationMode.BICUBIC)
    # Images that already have the size pass Resize untouched.
    return transforms.Compose([resize, transforms.RandomCrop(size, padding=padding, pad_if_needed=True)])


class PadCropDataset(WrappedDataset):
    """A map-style dataset whose training transform crops by `pad_crop` instead of random-resized crop.

    timm's loader factory builds the transform and assigns it to the dataset; there the crop is exchanged.
    """

    @property
    def transform(self) -> Callable | tuple | None:
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Callable | tuple | None) -> None:
        if isinstance(transform, tuple):  # the three stages of augmentation splits; the crop is in the first
            transform = (exchange_crop(transform[0]), *transform[1:])
        elif transform is not None:
            transform = exchange_crop(transform)
        self.dataset.transform = transform


def exchange_crop(transform: transforms.Compose) -> transforms.Compose:
    """The same transform with `pad_crop` in place of its random-resized crop; without one, unchanged."""
    return transforms.Compose([
        pad_crop(step.size) if isinstance(step, RandomResizedCropAndInterpolation) else step
        for step in transform.transforms])


def wrap_dataset(dataset: Dataset, args) -> Dataset:
    """Gives a training dataset the transforms of ours that `args` ask for.

    Args:
        dataset: Map-style dataset, before it goes to `timm.data.create_loader`.
        args: Options returned by `keepaug.prepare`.

    Returns:
        `dataset` itself where nothing of ours applies to it.

    Raises:
        ValueError: The data set is iterable, and something of ours applies.
    """
    stood_down = getattr(args, 'stood_down', None)
    if getattr(stood_down, 'train_crop_mode', None) != 'pad4':
        return dataset
    if isinstance(dataset, IterableDataset):
        raise ValueError('--train-crop-mode pad4 needs a map-style data set, such as an image folder: drop it.')
    return PadCropDataset(dataset)
