"""Photographs whose EXIF data say how to turn them: viewers do, timm does not, and boxes may be of either form."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright as stored
# Of other formats Pillow would have to read the pixels, too.
FORMATS = ('JPEG', 'MPO', 'TIFF')
TRANSPOSED = (5, 6, 7, 8)
FLIPPED_X = (2, 3, 7, 8)
FLIPPED_Y = (3, 4, 6, 7)
# How far a box may stick out of its image, in pixels: some count from 1, some round.
OVERHANG = 2.0

Box = tuple[float, float, float, float]


class Stored(NamedTuple):
    """What the header of an image tells.

    Attributes:
        size: (H, W) as it is stored.
        orientation: 1 to 8, as EXIF has it.
    """

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(H, W) of the image when it is turned as its EXIF data say."""
        return self.size[::-1] if self.orientation in TRANSPOSED else self.size


def read_header(file) -> Stored:
    """Size and orientation of an open file, without its pixels."""
    with Image.open(file) as image:
        turn = 1
        if image.format in FORMATS:
            try:
                turn = image.getexif().get(ORIENTATION, 1)
            except Exception:  # damaged EXIF data raise many errors, and turn nothing
                turn = 1
        return Stored(image.size[::-1], turn if turn in range(1, 9) else 1)


def fits(boxes: Iterable[Box], size: tuple[int, int]) -> bool:
    """Whether boxes lie within an image of a size (H, W)."""
    height, width = size
    return all(
        min(x0, y0) >= -OVERHANG and x1 <= width + OVERHANG and y1 <= height + OVERHANG for x0, y0, x1, y1 in boxes
    )


def are_upright(images: Sequence[tuple[Stored, Sequence[Box]]]) -> bool | None:
    """Whether the boxes of turned images are of the upright ones.

    Args:
        images: Headers of turned images with their boxes.

    Returns:
        None where all fit into either form, or some into one alone and some into the other.
    """
    upright = any(not fits(boxes, stored.size) and fits(boxes, stored.upright) for stored, boxes in images)
    as_stored = any(fits(boxes, stored.size) and not fits(boxes, stored.upright) for stored, boxes in images)
    return None if upright == as_stored else upright


def turn_back(boxes: Tensor, stored: Stored) -> Tensor:
    """Boxes (n, 4), XYXY, of an upright image in pixels of the stored one."""
    x0, y0, x1, y1 = boxes.unbind(1)
    if stored.orientation in TRANSPOSED:
        x0, y0, x1, y1 = y0, x0, y1, x1
    height, width = stored.size
    if stored.orientation in FLIPPED_X:
        x0, x1 = width - x1, width - x0
    if stored.orientation in FLIPPED_Y:
        y0, y1 = height - y1, height - y0
    return torch.stack([x0, y0, x1, y1], 1)
