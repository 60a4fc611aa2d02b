"""Images of more than 8 bits per channel, which Pillow clips to white or black where it converts them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets.folder import default_loader

SIXTEEN_BITS = ('I;16', 'I;16B', 'I;16L', 'I;16N')
DEEP = (*SIXTEEN_BITS, 'I', 'F')
# Streams whose readers convert images before any data set of ours sees them.
CONVERTED_HERE = ('wds/', 'hfids/')


def convert(image: Image.Image, mode: str) -> Image.Image:
    """An image in another of Pillow's modes; greys of 16 bits are scaled, so that the brightest there is stays white.

    What is converted from 8 bits is what Pillow makes of it. Colours of 16 bits never come here: Pillow itself keeps
    their upper halves where it reads them.

    Raises:
        ValueError: The pixels are of a mode whose range is not known.
    """
    if image.mode not in DEEP or mode in DEEP:
        return image.convert(mode)
    # Older versions of Pillow read a PNG of 16 bits as whole numbers of any size.
    if image.mode not in SIXTEEN_BITS and not (image.mode == 'I' and image.format == 'PNG'):
        raise ValueError(
            f'its pixels are of mode {image.mode}, whose range is not known: store them with 8 or 16 bits, or name a '
            'mode by --input-img-mode'
        )
    bits = (np.asarray(image).astype(np.uint32) + 128) // 257
    return Image.fromarray(bits.astype(np.uint8)).convert(mode)


class ConvertingReader:
    """A reader of a stream whose images come as they are stored, and are converted here.

    Args:
        reader: One of timm's that was given no mode.
        mode: The mode to convert to.
    """

    def __init__(self, reader, mode: str):
        self.reader = reader
        self.mode = mode

    def __getattr__(self, name: str) -> Any:
        if name == 'reader':  # not there yet while a worker unpickles this object
            raise AttributeError(name)
        return getattr(self.reader, name)

    def __len__(self) -> int:
        return len(self.reader)

    def __iter__(self) -> Iterator[tuple]:
        for image, *rest in self.reader:
            yield convert(image, self.mode), *rest


def load_rgb(path: str) -> Image.Image:
    """A file as torchvision's folders load it, `convert` in place of Pillow's."""
    with open(path, 'rb') as file:
        return convert(Image.open(file), 'RGB')


def convert_deep(dataset, name: str, mode: str):
    """Lets a data set of timm's that converts images by itself do so by `convert`.

    Args:
        dataset: Made without a mode where it is a stream of `CONVERTED_HERE`.
        name: Its `--dataset`.
        mode: The mode to convert to.
    """
    if name.lower().startswith(CONVERTED_HERE):
        dataset.reader = ConvertingReader(dataset.reader, mode)
    elif getattr(dataset, 'loader', None) is default_loader:
        dataset.loader = load_rgb
    return dataset
