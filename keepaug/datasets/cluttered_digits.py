"""Cluttered digits: a small real data set that needs no download, with the truth about where the evidence is.

scikit-learn ships 1797 handwritten digits of 8x8 pixels (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten
Digits, 1998). Each image here is one of them, enlarged, somewhere on a coloured ground among fragments of others. As
the pixels of the digit are known, a saliency map or a cut can be judged against them, which no photograph allows.
"""

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import Dataset

from keepaug.datasets.splits import to_split
from keepaug.installation import install_extra

__all__ = ['ClutteredDigits']

DEFAULT_NUM_SAMPLES = {'train': 4000, 'validation': 1000}

# One source digit in five, of every class, belongs to the validation split.
VALIDATION_STRIDE = 5

IMAGE_SIZE = 40  # the digit's strokes fill a tenth of it, so that a 16 px cut may or may not hit them
SOURCE_SIZE = 8
DIGIT_SIZES = (16, 24)  # px, both ends included
FRAGMENT_COUNTS = (6, 12)
FRAGMENT_SIZES = (6, 10)  # px, well below the digit: no fragment is a digit of its own
# Fragments are fainter than the digit. As strong as it, they leave resnet10t at 48% after five epochs and at 25% with
# 22 px cuts; so, cuts of that size leave it at 81% (one run each, 4000 images, AdamW at 2e-3, no other augmentation).
FRAGMENT_FIFTHS = 3

# Ink of the sources runs from 0 to 16. Fainter than the first number it is ground, from the second on it is opaque.
# The shades between are what makes so small a handwriting legible: cut out hard, strokes run together.
FAINTEST_INK = 4
OPAQUE_INK = 12

# Numbers drawn for an image of most fragments: two counts, five numbers and a colour for each piece, the ground.
MOST_DRAWS = 2 + 8 * (FRAGMENT_COUNTS[1] + 1) + 3

# Grounds are dark and strokes are bright: with either sign of contrast, a small network is still at chance after six
# epochs, where a demonstration wants to be over.
BRIGHTEST_GROUND = 85  # of 255, each channel
MIN_CONTRAST = 100  # of 255, in luma
LUMA_WEIGHTS = (299, 587, 114)  # ITU-R BT.601, in thousandths


@cache
def load_sources() -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's handwritten digits.

    Returns:
        Ink, int32 `(1797, 8, 8)` from 0 to 16, and classes, int64 `(1797,)`.

    Raises:
        ValueError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "The data set keepaug/cluttered-digits is drawn from scikit-learn's digits, and scikit-learn is not "
            f'installed: {install_extra("demo")}.'
        ) from error
    digits = load_digits()
    return digits.images.astype(np.int32), digits.target.astype(np.int64)


def split_sources(classes: np.ndarray, split: str) -> np.ndarray:
    """Choose the source digits of one split; no source is in both.

    Args:
        classes: int64 `(N,)`, the class of every source.
        split: `train` or `validation`.

    Returns:
        Indices of the sources, int64 `(M,)`, ascending. In `validation` it is every fifth digit of each class.
    """
    one_hot = classes[:, None] == np.arange(classes.max() + 1)
    rank_in_class = (one_hot.cumsum(0) * one_hot).sum(1)
    held_out = rank_in_class % VALIDATION_STRIDE == 0
    return np.flatnonzero(held_out if split == 'validation' else ~held_out)


def enlarge(ink: np.ndarray, size: int) -> np.ndarray:
    """Enlarge sources bilinearly and say how opaque every pixel is.

    The weights of bilinear enlarging are whole multiples of `1 / (2 size)`, so that whole numbers suffice and no
    processor rounds the edge of a stroke differently.

    Args:
        ink: int32 `(N, 8, 8)` from 0 to 16.
        size: Height and width wanted, in pixels.

    Returns:
        Opacity, uint8 `(N, size, size)`, 255 where the ground cannot be seen and 0 where there is no stroke.
    """
    weights = F.interpolate(torch.eye(SOURCE_SIZE).unsqueeze(0), size, mode='linear', align_corners=False)
    weights = (2 * size * weights).round().int().squeeze(0).numpy()
    enlarged = weights.T @ ink @ weights
    unit = (2 * size) ** 2
    opacity = np.minimum(enlarged * 255 // (OPAQUE_INK * unit), 255)
    return np.where(enlarged < FAINTEST_INK * unit, 0, opacity).astype(np.uint8)


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Find the smallest box around the True pixels.

    Args:
        mask: bool `(H, W)`, True somewhere.

    Returns:
        XYXY, half-open, in pixels.
    """
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def brighten(colours: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Blend colours with white until each is brighter than the ground by `MIN_CONTRAST`, and no further.

    Args:
        colours: int64 `(N, 3)`, RGB from 0 to 255.
        ground: int64 `(3,)`, the colour of the ground, no brighter than `255 - MIN_CONTRAST`.

    Returns:
        int64 `(N, 3)`; the luma (ITU-R BT.601) of each is at least `MIN_CONTRAST` above that of `ground`.
    """
    luma, white = (colours @ LUMA_WEIGHTS)[:, None], 1000 * 255
    missing = np.maximum(ground @ LUMA_WEIGHTS + 1000 * MIN_CONTRAST - luma, 0)
    # The share of white, rounded up in whole numbers. A colour that lacks nothing may be white itself: no 0 / 0.
    return colours - (colours - 255) * missing // np.maximum(white - luma, 1)


def cut_fragment(digit: np.ndarray, draw: Callable[[int, int], int]) -> np.ndarray:
    """Cut a square piece out of a digit, around a random point of a stroke, so that it is not empty.

    Args:
        digit: Opacity, uint8 `(size, size)`.
        draw: Draws a whole number between two, both included.

    Returns:
        Opacity, fainter than that of the digit, uint8 `(extent, extent)`.
    """
    size, extent = len(digit), draw(*FRAGMENT_SIZES)
    points = np.flatnonzero(digit)
    centre = divmod(int(points[draw(0, len(points) - 1)]), size)
    top, left = (min(max(at - extent // 2, 0), size - extent) for at in centre)
    return digit[top : top + extent, left : left + extent] // 5 * FRAGMENT_FIFTHS


def scatter(pieces: list[np.ndarray], draw: Callable[[int, int], int]) -> tuple[np.ndarray, np.ndarray]:
    """Lay pieces at random places of an image, later ones over earlier ones.

    Args:
        pieces: Opacities, uint8 `(h, w)` each.
        draw: Draws a whole number between two, both included.

    Returns:
        The piece that is seen at each pixel, uint8 `(H, W)`, counted from 1, 0 for the ground, and its opacity there,
        uint8 `(H, W)`.
    """
    seen, opacity = np.zeros((2, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for number, piece in enumerate(pieces, start=1):
        height, width = piece.shape
        y, x = draw(0, IMAGE_SIZE - height), draw(0, IMAGE_SIZE - width)
        place = (slice(y, y + height), slice(x, x + width))
        np.copyto(seen[place], number, where=piece > 0)
        np.copyto(opacity[place], piece, where=piece > 0)
    return seen, opacity


class ClutteredDigits(Dataset):
    """Handwritten digits among fragments of other digits, 40x40 pixels, RGB, 10 classes.

    A map-style data set as `timm.data.create_loader` takes it. Every image is drawn when it is asked for and depends
    on split and index alone, whoever asks, in whatever order. Digits, fragments and grounds have random colours, so
    that colour tells nothing about the class. The digit is drawn last: no fragment covers it, and where its ink is full
    it is brighter than the ground by a luma of at least `MIN_CONTRAST`. Fragments have three fifths of the opacity.

    Attributes:
        transform: Called with the PIL image; settable, as timm's loader does.
        target_transform: Called with the class index.
        classes: Names of the classes.
        class_to_idx: Class index by name.
    """

    def __init__(
        self,
        split: str = 'train',
        num_samples: int | None = None,
        input_img_mode: str = 'RGB',
        transform: Callable[[Image.Image], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ):
        """
        Args:
            split: `train` or `validation`, or what timm also calls them. The splits share no source digit, neither
                for digits nor for fragments.
            num_samples: Number of images; by default 4000 to train on and 1000 to validate with.
            input_img_mode: PIL's name of the mode that the transform receives, `L` for models of one channel.
            transform: See above.
            target_transform: See above.

        Raises:
            ValueError: If the split is unknown, `num_samples` is not positive or scikit-learn is not installed.
        """
        self.split = to_split(split, 'keepaug/cluttered-digits')
        self.num_samples = DEFAULT_NUM_SAMPLES[self.split] if num_samples is None else num_samples
        if self.num_samples < 1:
            raise ValueError(f'{num_samples = } is not a number of images: use a positive one.')
        self.input_img_mode = input_img_mode
        self.transform = transform
        self.target_transform = target_transform
        self.classes = [str(digit) for digit in range(10)]
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}

        # Read here and not at the first image, so that a missing scikit-learn is reported by the main process.
        ink, targets = load_sources()
        self.sources = split_sources(targets, self.split)
        self._ink = ink[self.sources]
        self._targets = targets[self.sources].tolist()
        self._opacity: dict[int, np.ndarray] = {}  # by size, as soon as one is needed

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the transformed image and its target, an int unless `target_transform` makes it something else."""
        image = Image.fromarray(self._draw(self._index(index))[0]).convert(self.input_img_mode)
        target = self.target(index)
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def target(self, index: int) -> int:
        """Return the class of one image.

        Args:
            index: From 0 to `len(self) - 1`, or negative to count from the end.

        Raises:
            IndexError: If there is no such image.
        """
        return self._targets[self._source(self._index(index))]

    def image(self, index: int) -> torch.Tensor:
        """Return the pixels of one image before any transform, uint8 `(3, H, W)` from 0 to 255.

        Args:
            index: From 0 to `len(self) - 1`, or negative to count from the end.

        Raises:
            IndexError: If there is no such image.
        """
        return torch.from_numpy(self._draw(self._index(index))[0]).permute(2, 0, 1).contiguous()

    def mask(self, index: int) -> torch.Tensor:
        """Return where the digit is, bool `(H, W)`, True on the digit's own pixels and on no others.

        Args:
            index: From 0 to `len(self) - 1`, or negative to count from the end.

        Raises:
            IndexError: If there is no such image.
        """
        return torch.from_numpy(self._draw(self._index(index))[1])

    def box(self, index: int) -> torch.Tensor:
        """Return the smallest box around the digit's pixels, int64 `(4,)`, XYXY, half-open.

        Args:
            index: From 0 to `len(self) - 1`, or negative to count from the end.

        Raises:
            IndexError: If there is no such image.
        """
        return torch.tensor(mask_to_box(self._draw(self._index(index))[1]))

    def _index(self, index: int) -> int:
        try:
            return range(self.num_samples)[operator.index(index)]
        except IndexError:
            raise IndexError(f'{index = } is out of range for {self.num_samples} images.') from None

    def _source(self, index: int) -> int:
        # In turn instead of at random: every source is used, none more than once more than another.
        return index % len(self._targets)

    def _enlarged(self, size: int) -> np.ndarray:
        if size not in self._opacity:
            self._opacity[size] = enlarge(self._ink, size)
        return self._opacity[size]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw one image, uint8 `(H, W, 3)`, and the mask of its digit, bool `(H, W)`."""
        generator = torch.Generator().manual_seed(2 * index + (self.split == 'validation'))
        rolls = iter(torch.randint(2**31, (MOST_DRAWS,), generator=generator).tolist())

        def draw(low: int, high: int) -> int:
            return low + next(rolls) % (high + 1 - low)  # of a number so large that the remainder is as good as uniform

        # One size for all, so that the strokes of the clutter are as thick as the digit's.
        sources, source = self._enlarged(draw(*DIGIT_SIZES)), self._source(index)
        pieces = []
        for _ in range(draw(*FRAGMENT_COUNTS)):
            # Any source but the digit's own, of whatever class: what the clutter lacks must not tell the class.
            other = (source + draw(1, len(sources) - 1)) % len(sources)
            pieces.append(cut_fragment(sources[other], draw))
        left, top, right, bottom = mask_to_box(sources[source] > 0)
        pieces.append(sources[source][top:bottom, left:right])

        seen, opacity = scatter(pieces, draw)
        ground = np.array([draw(0, BRIGHTEST_GROUND) for _ in 'RGB'])
        colours = brighten(np.array([[draw(0, 255) for _ in 'RGB'] for _ in pieces]), ground)
        shades = np.concatenate([np.zeros((1, 3), dtype=np.int64), colours - ground])
        image = ground + shades[seen] * opacity[..., None] // 255
        return image.astype(np.uint8), seen == len(pieces)
