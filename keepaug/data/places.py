"""Where each training crop lies in its image, told beside the label from the transform that drew it.

On its way through stock's collate function and prefetcher a target becomes a row of int64: the label, the number of
the image and, for each copy of the sample, height, width, x0, y0, x1, y1 and the two flips (see
`keepaug.functional.saliency_maps.Places`). A label of several classes travels as the bits of its float32 numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from timm.data.transforms import (
    CenterCropOrPad,
    RandomCropOrPad,
    RandomResizedCropAndInterpolation,
    ResizeKeepRatio,
)
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from keepaug.data.wrapped import Repeated, WrappedDataset, find_layer

PLACE = 8  # numbers that tell where one crop lies
Size = tuple[int, int]


class Placed(NamedTuple):
    """What a transform gives of an image.

    Attributes:
        views: An image (C, H, W), or a tuple of several.
        places: Where each lies, `PLACE` numbers apiece, one after the other.
    """

    views: Tensor | tuple
    places: list[int]


class PlacedSamples(WrappedDataset):
    """A data set whose targets come with the number of the image; its transform gives `Placed` images.

    Args:
        dataset: Map-style data set. What it repeats has one number.
    """

    def __init__(self, dataset: Dataset):
        super().__init__(dataset)
        self.images = count_images(dataset)

    def __getitem__(self, index: int) -> tuple[Any, tuple[Any, int]]:
        image, target = self.dataset[index]
        return image, (target, index % self.images)


def count_images(dataset: Any) -> int:
    """Images of a data set, each counted once where it repeats them."""
    repeated = find_layer(dataset, Repeated)
    return len(dataset if repeated is None else repeated.dataset)


class PlacedCollate:
    """Collates samples whose places ride on the target.

    Args:
        collate: What collates images and targets.
    """

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, batch: Sequence[tuple[Placed, tuple[Any, int]]]) -> Any:
        return self.collate(
            [(placed.views, join_target(target, index, placed.places)) for placed, (target, index) in batch]
        )


def join_target(target: Any, index: int, places: Sequence[int]) -> Tensor:
    """A label, the number of its image and the places of its crops as one row."""
    label = torch.as_tensor(target)
    if label.is_floating_point():
        label = label.float().view(torch.int32)
    return torch.cat([label.reshape(-1).long(), torch.tensor([index, *places])])


def split_target(joined: Tensor, copies: int = 1, dense: bool = False) -> tuple[Tensor, Tensor]:
    """Labels and places of a collated batch.

    Args:
        joined: int64 rows, B for each of the copies: all first copies, then all second ones.
        copies: Copies M of each sample.
        dense: Whether labels are of several classes.

    Returns:
        Class indices (M B,), or labels float32 (M B, K); and rows (M B, 9) for `Places.from_rows`.
    """
    rows, columns = joined.shape
    classes = columns - 1 - copies * PLACE
    label = joined[:, :classes]
    label = label.int().view(torch.float32) if dense else label[:, 0]
    # Every row of a sample holds the places of all its copies; each takes its own.
    places = joined[:, classes + 1 :].reshape(copies, rows // copies, copies, PLACE)
    places = places.diagonal(dim1=0, dim2=2).permute(2, 0, 1).reshape(rows, PLACE)
    return label, torch.cat([joined[:, classes, None], places], 1)


class TracedCrop(transforms.Compose):
    """Crop and flips that remember where they cropped.

    Args:
        steps: Steps of a transform before its policy: resizing, one crop, flips.
        places: Where each crop lies is added to this, as `PLACE` numbers.

    Raises:
        ValueError: Among them is a step that is not known, or one behind a crop that would move it.
    """

    def __init__(self, steps: Sequence[Callable], places: list[int]):
        super().__init__(list(_flat(steps)))
        kinds = [_kind(step) for step in self.transforms]
        order = [ORDER.index(KINDS[kind]) if KINDS[kind] in ORDER else 1 for kind in kinds]
        if order != sorted(order) or order.count(1) > 1:
            raise ValueError(f'Crops are traced through resizing, one crop and flips, got {self.transforms}.')
        self.traces = [KINDS[kind] for kind in kinds]
        self.places = places

    def __call__(self, image: Image.Image) -> Image.Image:
        place = _whole(image)
        for step, trace in zip(self.transforms, self.traces):
            image, place = trace(step, image, place)
        self.places += place
        return image


# Each of these applies a step to an image that lies at a place, and gives the result and where that lies.


def _resize(step: Callable, image: Image.Image, place: list[int]) -> tuple[Image.Image, list[int]]:
    image = step(image)
    return image, _whole(image)


def _flip(step: Callable, image: Image.Image, place: list[int]) -> tuple[Image.Image, list[int]]:
    flipped = step(image)
    if flipped is not image:
        horizontal = isinstance(step, transforms.RandomHorizontalFlip)
        place = [*place[:6], place[6] ^ horizontal, place[7] ^ (not horizontal)]
    return flipped, place


def _crop_resized(step, image: Image.Image, place: list[int]) -> tuple[Image.Image, list[int]]:
    result, _, (top, left, height, width) = _watch(step, image)
    return result, _box(image, top, left, (height, width))


def _crop_padded(step, image: Image.Image, place: list[int]) -> tuple[Image.Image, list[int]]:
    result, padded, (top, left, height, width) = _watch(step, image)
    # Both sides of an image are padded alike.
    top, left = top - (padded.height - image.height) // 2, left - (padded.width - image.width) // 2
    return result, _box(image, top, left, (height, width))


def _crop_or_pad(step, image: Image.Image, place: list[int]) -> tuple[Image.Image, list[int]]:
    result, _, (top, left) = _watch(step, image)
    return result, _box(image, top, left, step.size)


def _crop_center(step, image: Image.Image, place: list[int]) -> tuple[Image.Image, list[int]]:
    result = step(image)
    # What is too small is padded, by the odd pixel less before it than behind it.
    top, left = (
        -((crop - length) // 2) if crop > length else round((length - crop) / 2)
        for crop, length in zip((result.height, result.width), (image.height, image.width))
    )
    return result, _box(image, top, left, (result.height, result.width))


KINDS: dict[type, Callable] = {
    transforms.Resize: _resize,
    ResizeKeepRatio: _resize,
    RandomResizedCropAndInterpolation: _crop_resized,
    transforms.RandomCrop: _crop_padded,
    RandomCropOrPad: _crop_or_pad,
    CenterCropOrPad: _crop_center,
    transforms.CenterCrop: _crop_center,
    transforms.RandomHorizontalFlip: _flip,
    transforms.RandomVerticalFlip: _flip,
}
ORDER = (_resize, None, _flip)


def _kind(step: Any) -> type:
    for kind in KINDS:
        if isinstance(step, kind):
            return kind
    raise ValueError(f'It is unknown where {step} crops an image.')


def _watch(step, image: Image.Image) -> tuple[Image.Image, Image.Image, tuple]:
    """Applies a step; gives its result, the image that it drew a crop for, and what it drew."""
    draws = []

    def draw(image: Image.Image, *settings) -> tuple:
        draws.append((image, type(step).get_params(image, *settings)))
        return draws[-1][1]

    step.get_params = draw  # before the one of its class
    try:
        result = step(image)
    finally:
        del step.get_params
    return result, *draws[-1]


def _whole(image: Image.Image) -> list[int]:
    return _box(image, 0, 0, (image.height, image.width))


def _box(image: Image.Image, top: int, left: int, size: Size) -> list[int]:
    return [image.height, image.width, left, top, left + size[1], top + size[0], 0, 0]


def _flat(steps: Sequence[Callable]):
    for step in steps:
        yield from _flat(step.transforms) if isinstance(step, transforms.Compose) else (step,)
