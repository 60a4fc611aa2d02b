"""torchvision's AutoAugment policies for CIFAR-10, SVHN and ImageNet, at their own magnitudes or at one for all.

AutoAugment (Cubuk et al., 2019) found them; timm has those of ImageNet alone.
"""

import re
from typing import Any

from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy

PREFIX = 'tv-'
NAMES = tuple(
    f'{PREFIX}{policy.value}'
    for policy in (AutoAugmentPolicy.CIFAR10, AutoAugmentPolicy.SVHN, AutoAugmentPolicy.IMAGENET)
)

# The scale of RandAugment's magnitudes, on which KeepAugment (Table 4) varies AutoAugment's.
LARGEST_MAGNITUDE = 30

# What shears, rotations and translations leave empty: the grey of AutoAugment's code.
FILL = 128


class TorchvisionPolicy(transforms.AutoAugment):
    """A policy of torchvision's.

    Attributes:
        magnitude: Strength of all its operations, from 0 to 30; None for that of each.
    """

    def __init__(self, policy: AutoAugmentPolicy, magnitude: int | None = None):
        """See the attributes."""
        super().__init__(policy, fill=FILL)
        self.magnitude = magnitude
        if magnitude is not None:
            self.policies: list[Any] = [
                tuple((name, prob, None if own is None else magnitude) for name, prob, own in pair)
                for pair in self.policies
            ]

    def _augmentation_space(self, num_bins: int, image_size: tuple[int, int]) -> dict[str, tuple[Tensor, bool]]:
        """torchvision's: what each operation does at each magnitude, of which the policies' own scale has ten."""
        if self.magnitude is not None:
            num_bins = LARGEST_MAGNITUDE + 1
        return super()._augmentation_space(num_bins, image_size)

    def __repr__(self) -> str:
        magnitude = '' if self.magnitude is None else f', magnitude={self.magnitude}'
        return f'{type(self).__name__}({self.policy.value}{magnitude})'


POLICIES = (AutoAugment, RandAugment, AugMixAugment, TorchvisionPolicy)


def is_torchvision_policy(name: str | None) -> bool:
    """Whether the name of a policy is one of torchvision's."""
    return name is not None and name.startswith(PREFIX)


def create_policy(name: str) -> TorchvisionPolicy:
    """The policy of a name, such as `tv-cifar10` or `tv-cifar10-m12`.

    Raises:
        ValueError: There is none of this name, or its magnitude is not a whole number from 0 to 30.
    """
    found = re.fullmatch(r'(tv-[a-z0-9]+?)(?:-m(\d+))?', name)
    if found is None or found[1] not in NAMES:
        raise ValueError(f'{name} is not a policy: use {", ".join(NAMES)}, each alone or with a magnitude such as -m9.')
    magnitude = None if found[2] is None else int(found[2])
    if magnitude is not None and magnitude > LARGEST_MAGNITUDE:
        raise ValueError(f'{name} must have a magnitude from 0 to {LARGEST_MAGNITUDE}, got {magnitude}.')
    return TorchvisionPolicy(AutoAugmentPolicy(found[1].removeprefix(PREFIX)), magnitude)
