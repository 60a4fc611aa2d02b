"""The papers' standard augmentation of CIFAR: pad, random crop, flip."""

from collections.abc import Callable

from torchvision import transforms

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
