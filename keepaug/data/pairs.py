"""Pairs for keep-paste: every crop before and after the policy, as images of one sample in timm's loader.

The layout of a batch is that of timm's augmentation splits: the rows of one kind stand together, in the order of the
samples. A batch of pairs is B clean rows, then the same B samples augmented; the target comes with as many rows
(timm's `fast_collate`, which repeats it) or with B (torch's `default_collate`).
"""
from collections.abc import Callable, Sequence

from PIL import Image
from timm.data.transforms import MaybePILToTensor, MaybeToTensor
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import transforms

from keepaug.data.policies import POLICIES

CONVERSIONS = (MaybePILToTensor, MaybeToTensor)


class Views(tuple):
    """Images (C, H, W) of one sample; a batch holds the first of every sample, then the second of every sample.

    timm's `fast_collate` does so with any tuple, torch's `default_collate` with this one. More views than two keep to
    the same rule: for several pairs per sample, all that are clean come before all that are augmented.
    """


def collate_views(batch: Sequence[Views], *, collate_fn_map: dict | None = None) -> Tensor:
    """Stacks the views (N, C, H, W) of B samples, N / B each; called by `default_collate`."""
    return default_collate([image for kind in zip(*batch, strict=True) for image in kind])


# The way that `default_collate` documents for types of one's own; importing this module, as unpickling a data set in
# a worker does, is enough.
default_collate_fn_map[Views] = collate_views


class PairTransform:
    """One image to its crop before and after a policy, decoded and cropped once.

    Attributes:
        crop: Crop and flip, shared by both sides.
        policy: What makes the augmented side out of the crop.
        convert: Conversion to a tensor, and normalisation where the loader does not do it.
    """

    def __init__(self, crop: Callable, policy: Callable, convert: Callable):
        self.crop = crop
        self.policy = policy
        self.convert = convert

    def __call__(self, image: Image.Image) -> Views:
        clean = self.crop(image)
        return Views(self.convert(side) for side in (clean, self.policy(clean)))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop={self.crop}, policy={self.policy}, convert={self.convert})'


def pair_up(transform: transforms.Compose) -> PairTransform:
    """Makes pairs with the steps of a training transform of timm's.

    What precedes the policy (crop, flips) is shared; policy, colour jitter, grayscale and blur make the augmented side.

    Args:
        transform: Steps as `timm.data.create_transform` puts them: crop and flips, policy and what goes with it,
            conversion.

    Raises:
        ValueError: There is no policy among the steps.
    """
    steps = transform.transforms
    start = _first(steps, POLICIES)
    if start is None:
        raise ValueError('--keep-paste finds no policy in the loader: give create_loader auto_augment=args.aa.')
    end = _first(steps, CONVERSIONS)
    return PairTransform(*(transforms.Compose(part) for part in (steps[:start], steps[start:end], steps[end:])))


def _first(steps: Sequence[Callable], kinds: tuple[type, ...]) -> int | None:
    """Index of the first step that is of one of the kinds."""
    return next((index for index, step in enumerate(steps) if isinstance(step, kinds)), None)
