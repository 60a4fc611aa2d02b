"""What every batch augmentation is."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from keepaug.augment.recycled import SaliencyMaps
from keepaug.functional import draw
from keepaug.ranges import HyperParameterError, Range


class BatchAugment:
    """Turns a batch of images and labels into an augmented batch, on its own device.

    Subclasses hold hyper-parameters and define `augment`.

    Attributes:
        name: Name in the registry; empty for what is not there.
        ranges: Values that a hyper-parameter may take, by its name.
        model: The bare model whose saliency guides the augmentation, or None where none is needed.
        num_classes: Number of classes, needed where labels are mixed.
        takes_too: Class whose hyper-parameters it takes beside its own and those of its bases; None for none.
        enabled: False passes batches through unchanged, see `bypass`.
        strength: Share of its probability that is left, in [0, 1], while the augmentation is faded out; 0 is off.
        rows_per_sample: Rows of an incoming batch that are one sample. Rows of a kind stand together (all clean ones,
            then all augmented ones), each time in the same order.
        recycled: Maps of past training steps that guide it, which is then called with `where`; None for none.
        last: What was drawn for the last batch, detached: `boxes`, `mask`, `saliency` ... by name, as each class says.
    """

    name = ''
    ranges: Mapping[str, Range] = {}
    rows_per_sample = 1
    recycled: SaliencyMaps | None = None
    takes_too: type['BatchAugment'] | None = None

    def __init__(self, model: nn.Module | None = None, num_classes: int | None = None):
        known = _classes_of(model)
        if known and num_classes not in (None, known):
            raise HyperParameterError('num_classes', f'must be {known}, the outputs of the model', num_classes)
        self.model = model
        self.num_classes = num_classes
        self.enabled = True
        self.strength = 1.0
        self.last: dict[str, Any] = {}

    def __repr__(self) -> str:
        """The augmentation with its hyper-parameters, for the log."""
        return f'{type(self).__name__}({self._settings()})'

    def describe(self, size: tuple[int, int]) -> str:
        """How strong the augmentation is, in words, for images (H, W) of a size in pixels."""
        return self._settings()

    def _settings(self) -> str:
        settings = {name: value for name, value in vars(self).items() if is_plain(value)}
        for other in ('enabled', 'strength', 'name'):
            settings.pop(other, None)
        return ', '.join(f'{name}={value}' for name, value in settings.items())

    def __call__(
        self,
        x: Tensor,
        target: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Augments a batch.

        Args:
            x: Images (B, C, H, W), floating point, normalised. Not modified.
            target: Class indices (B,), soft targets (B, K), or None for unlabelled images. Not modified.
            generator: Source of randomness, and the only one that moves; None for torch's default streams, which then
                move.

        Returns:
            The new images and targets; what `bypass` gives where the augmentation is off.

        Raises:
            ValueError: Images or targets are of another kind or number, or, on the CPU, a label is out of range.
        """
        check_batch(x, target, self.num_classes or _classes_of(self.model), self.rows_per_sample)
        self.last = {}
        if not self.active:
            return self.bypass(x, target)
        return self.augment(x, target, generator)

    @property
    def active(self) -> bool:
        """Whether batches are augmented at present."""
        return self.enabled and self.strength > 0.0

    @property
    def mixes_labels(self) -> bool:
        """Whether targets come out soft."""
        return False

    @property
    def switches(self) -> bool:
        """Whether some of its draws are mixup and the others CutMix."""
        return False

    @property
    def erases(self) -> bool:
        """Whether it erases as stock's random erasing does."""
        return False

    def check(self, parameter: str, value: Any) -> Any:
        """The value of a hyper-parameter, if it lies in its range.

        Raises:
            HyperParameterError: It does not.
        """
        return self.ranges[parameter].check(parameter, value)

    def set_progress(self, progress: float) -> None:
        """Takes, before each epoch, the share of the training that is done, 0 to 1."""

    def own_pixels(self) -> Tensor | None:
        """Where the first rows of the last batch that came out still show their own image: bool (B, 1, H, W).

        As many rows as went in; None for everywhere.
        """
        mask = self.last.get('mask')
        return None if mask is None else ~mask

    def check_images(self, x: Tensor) -> None:
        """Checks before training that images like these can be augmented.

        Args:
            x: Any images of the size, channels, type and device of those to come.

        Raises:
            ValueError: They cannot, with the reason and the way out.
        """

    def bypass(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A batch without the augmentation: the very tensors that came in, one row per sample."""
        return x, target

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text or a tuple of such, which a line of the log can show."""
    return all(map(is_plain, value)) if isinstance(value, tuple) else isinstance(value, (int, float, str))


class Compose:
    """Augmentations one after the other.

    Attributes:
        augments: The augmentations in the order a batch meets them.
    """

    def __init__(self, augments: list[BatchAugment]):
        self.augments = augments

    @property
    def rows_per_sample(self) -> int:
        """Rows of an incoming batch that are one sample."""
        return math.prod(augment.rows_per_sample for augment in self.augments)

    @property
    def recycling(self) -> BatchAugment | None:
        """The augmentation that maps of past training steps guide."""
        return next((augment for augment in self.augments if augment.recycled is not None), None)

    def __call__(
        self,
        x: Tensor,
        target: Tensor | None,
        generator: torch.Generator | None = None,
        where: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Augments a batch; see `BatchAugment`.

        Args:
            x: Images (B, C, H, W).
            target: Their targets, or None.
            generator: Source of randomness; torch's default one if None.
            where: int64 (B, 9), where the images lie in those that maps are of, as `PlacedImages` tells it; needed
                with maps alone.
        """
        for augment in self.augments:
            x, target = call(augment, x, target, generator, where)
        return x, target

    def own_pixels(self) -> Tensor | None:
        """Where the first rows of the last batch still show their own image: bool (B, 1, H, W); None: everywhere."""
        own = [part for augment in self.augments if (part := augment.own_pixels()) is not None]
        return functools.reduce(torch.logical_and, own) if own else None

    def set_progress(self, progress: float) -> None:
        for augment in self.augments:
            augment.set_progress(progress)


def call(
    augment: BatchAugment,
    x: Tensor,
    target: Tensor | None,
    generator: torch.Generator | None = None,
    where: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Calls an augmentation, with the places of the crops where it asks for them."""
    return augment(x, target, generator, **({} if augment.recycled is None else {'where': where}))


def check_batch(x: Tensor, target: Tensor | None, num_classes: int | None, rows_per_sample: int = 1) -> None:
    """Says what no augmentation can take, by what the host knows without waiting for a device.

    Args:
        x: Images.
        target: Their targets, or None.
        num_classes: Number of classes, where it is known.
        rows_per_sample: Images that may have one target together.

    Raises:
        ValueError: Images are no floats (B, C, H, W), targets are of another kind or number, or a label on the CPU has
            no class.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4:
        got = f'{x.dtype} {tuple(x.shape)}' if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f'Images must be a floating point tensor (B, C, H, W), normalised, got {got}.')
    if target is None:
        return
    kind = f'{target.dtype} {tuple(target.shape)}' if isinstance(target, Tensor) else type(target).__name__
    if not isinstance(target, Tensor) or target.ndim not in (1, 2) or target.is_complex():
        raise ValueError(f'Targets must be a tensor of class indices (B,) or of soft targets (B, K), got {kind}.')
    if len(x) not in (len(target), rows_per_sample * len(target)):
        raise ValueError(f'Every image needs a target: got {len(x)} images and {len(target)} targets.')
    if target.ndim == 2:
        return
    if target.dtype != torch.int64:
        raise ValueError(f'Class indices must be int64 (B,), got {kind}: say target.long().')
    if num_classes and target.device.type == 'cpu' and len(target):
        least, most = target.aminmax()
        if least < 0 or most >= num_classes:
            wrong = int(least if least < 0 else most)
            raise ValueError(f'Class indices must be from 0 to {num_classes - 1}, got {wrong}.')


def _classes_of(model: nn.Module | None) -> int | None:
    """Outputs of a model of timm's; None where it does not tell, 0 where it has no classifier."""
    classes = getattr(model, 'num_classes', None)
    return classes if isinstance(classes, int) else None


def check_edge(parameter: str, edge: int, x: Tensor) -> int:
    """The edge of a square in pixels, if it fits into images like these.

    Raises:
        HyperParameterError: It does not.
    """
    height, width = x.shape[-2:]
    if edge > min(height, width):
        raise HyperParameterError(
            parameter, f'must be at most {min(height, width)} for images of {height} x {width} pixels', edge
        )
    return edge


def draw_applied(batch: int, prob: float, device: torch.device, generator: torch.Generator | None) -> Tensor | None:
    """Which samples (B, 1, 1, 1) an augmentation applies to; None where that is all of them, and nothing is drawn."""
    if prob >= 1.0:
        return None
    return draw.uniform(batch, 1, 1, 1, device=device, generator=generator) < prob


def flip_coins(count: int, prob: float, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """How so many coins fall (N,).

    They are flipped on the CPU unless the generator is elsewhere: the host then sees how they fell without waiting for
    the device, and can leave out what nobody needs.
    """
    where = 'cpu' if generator is None or generator.device.type == 'cpu' else device
    return draw.uniform(count, device=where, generator=generator) < prob


def default_window(height: int, width: int) -> int:
    """Edge in pixels of the paper's region: 16 for CIFAR-sized images, 40 for ImageNet's (KeepAugment, section 4).

    Images below 96 px, half-way between the two on a logarithmic scale, count as CIFAR-sized.
    """
    return 16 if min(height, width) < 96 else 40
