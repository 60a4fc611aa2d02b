"""Steps of a transform that can be weakened while loader workers run."""
from collections.abc import Callable

import torch
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from keepaug.data.copies import Copies
from keepaug.data.pairs import PairTransform
from keepaug.data.policies import POLICIES

# Steps of a training transform beyond crop and flip. RandomApply is what timm gives colour jitter and blur a
# probability with.
INTENSIVE = (
    *POLICIES, RandomErasing, transforms.ColorJitter, transforms.RandomApply, transforms.RandomGrayscale,
)


class Fading:
    """A step of a transform that is applied with a probability which can change while workers run.

    Args:
        step: Takes and gives an image.
        strength: One number in shared memory: the probability. At 1 nothing is drawn.
    """

    def __init__(self, step: Callable, strength: torch.Tensor):
        self.step = step
        self.strength = strength

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.step})'

    def __call__(self, image):
        strength = self.strength.item()
        applied = strength >= 1. or strength > 0. and torch.rand(()).item() < strength
        return self.step(image) if applied else image


def fade_steps(transform: Callable, strength: torch.Tensor) -> Callable:
    """The same transform with all that is intensive in it subject to `strength`."""
    if isinstance(transform, transforms.Compose):
        return transforms.Compose([fade_steps(step, strength) for step in transform.transforms])
    if isinstance(transform, Copies):
        return Copies(fade_steps(transform.transform, strength), transform.copies)
    if isinstance(transform, PairTransform):
        return PairTransform(
            transform.crop, fade_steps(transform.policy, strength), fade_steps(transform.convert, strength))
    return Fading(transform, strength) if isinstance(transform, INTENSIVE) else transform
