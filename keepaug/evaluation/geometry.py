"""Where the transform of evaluation puts the pixels of an image."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.data.transforms import CenterCropOrPad, MaybePILToTensor, ResizeKeepRatio, ToNumpy, TrimBorder
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional


class View(NamedTuple):
    """What a step makes of an image: x comes to lie at `scale_x x + left`, y at `scale_y y + top`.

    Attributes:
        size: (H, W) of the result.
        scale_x: Factor.
        scale_y: Factor.
        left: Pixels.
        top: Pixels.
    """

    size: tuple[int, int]
    scale_x: float = 1.0
    scale_y: float = 1.0
    left: float = 0.0
    top: float = 0.0


Step = Callable[[tuple[int, int]], View]


def moving_steps(transform: Callable | None) -> list[Step]:
    """The steps of a transform that move pixels.

    Args:
        transform: What `timm.data.create_transform` makes for evaluation, or None.

    Raises:
        ValueError: A step is of a kind that boxes cannot follow.
    """
    steps: list[Step] = []
    for step in getattr(transform, 'transforms', [] if transform is None else [transform]):
        kind = next((kind for kind in (*STEPS, *STILL) if isinstance(step, kind)), None)
        if kind is None:
            raise ValueError(
                f'--evaluate localization cannot tell where {type(step).__name__} puts a box: leave out the flag that '
                'replaces the transform, such as --tf-preprocessing.'
            )
        if kind in STEPS:
            steps.append(partial(STEPS[kind], step))
    return steps


def move_boxes(boxes: Tensor, steps: Sequence[Step], size: tuple[int, int]) -> Tensor:
    """Where boxes come to lie, cut to what is left of the image.

    Args:
        boxes: (n, 4), XYXY, half-open, in pixels of the image.
        steps: What `moving_steps` found.
        size: Image (H, W).

    Returns:
        (n, 4); a box that is cut off whole has no area.
    """
    for step in (View, *steps):  # the first one moves nothing
        view = step(size)
        size = view.size
        scale, offset = boxes.new_tensor([view.scale_x, view.scale_y] * 2), boxes.new_tensor([view.left, view.top] * 2)
        height, width = size
        boxes = torch.minimum((boxes * scale + offset).clamp(min=0), boxes.new_tensor([width, height] * 2))
    return boxes


def _resize(step: transforms.Resize, size: tuple[int, int]) -> View:
    # Asked of torchvision, by an image without pixels: its rules for a single edge are its own.
    nearest = transforms.InterpolationMode.NEAREST
    after = functional.resize(torch.empty(1, *size, device='meta'), step.size, nearest, step.max_size).shape[1:]
    return _scaled(size, tuple(after))


def _resize_keep_ratio(step: ResizeKeepRatio, size: tuple[int, int]) -> View:
    return _scaled(size, tuple(step.get_params(torch.empty(1, *size, device='meta'), step.size, step.longest)))


def _scaled(before: tuple[int, int], after: tuple[int, int]) -> View:
    return View(after, after[1] / before[1], after[0] / before[0])


def _crop(step: transforms.CenterCrop | CenterCropOrPad, size: tuple[int, int]) -> View:
    top, left = (_offset(edge, wanted) for edge, wanted in zip(size, step.size))
    return View(tuple(step.size), left=left, top=top)


def _offset(edge: int, wanted: int) -> int:
    """Pixels before the image where it is padded, less those that are cut off."""
    return (wanted - edge) // 2 if wanted > edge else -round((edge - wanted) / 2)


def _trim(step: TrimBorder, size: tuple[int, int]) -> View:
    height, width = (max(0, edge - 2 * step.border_size) for edge in size)
    return View((height, width), left=-step.border_size, top=-step.border_size)


STEPS: dict[type, Callable[[Any, tuple[int, int]], View]] = {
    transforms.Resize: _resize,
    ResizeKeepRatio: _resize_keep_ratio,
    transforms.CenterCrop: _crop,
    CenterCropOrPad: _crop,
    TrimBorder: _trim,
}
STILL = (transforms.ToTensor, transforms.Normalize, MaybePILToTensor, ToNumpy)
