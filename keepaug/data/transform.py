"""What happens to a training image between decoding and its batch.

timm's loader factory makes a transform and gives it to the data set. Where something of ours is on, that transform is
taken apart once, as it arrives, and put together anew; else it stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import AugMixDataset, IterableImageDataset, create_transform
from timm.data.naflex_dataset import NaFlexMapDatasetWrapper
from timm.data.random_erasing import RandomErasing
from timm.data.scheduled_sampler import ScheduledTransformDataset
from timm.data.transforms import MaybePILToTensor, MaybeToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from torchvision import transforms

from keepaug.data.places import Placed, TracedCrop
from keepaug.data.policies import POLICIES
from keepaug.data.views import Views
from keepaug.data.wrapped import WrappedDataset, find_layer, innermost

Step = Callable  # takes and gives an image

CONVERSIONS = (MaybePILToTensor, MaybeToTensor)
# Steps of a training transform beyond crop and flip. RandomApply is what timm gives colour jitter and blur a
# probability with.
INTENSIVE = (*POLICIES, RandomErasing, transforms.ColorJitter, transforms.RandomApply, transforms.RandomGrayscale)


@dataclass
class TransformChanges:
    """What becomes of the transform of training images; as it is made, nothing.

    Attributes:
        crop: Makes the crop that takes the place of the random-resized one, for a size (H, W); None to leave it.
        policy: Takes the place of timm's policy; None to leave it.
        paired: Give every image twice, before and after the policy: one crop and flip, decoded once.
        copies: How often an image, decoded once, is cropped and augmented, each time on its own. Not to be confused
            with timm's `--aug-repeats`, whose copies are decoded anew and go to different processes.
        placed: Tell where each crop lies in its image.
        strength: One number in shared memory, the probability of each step beyond crop and flip; see `Fading`. None
            where nothing fades.
        plain: Whether crop and flips give way to `whole` while the strength is 0; see `Switched`.
        whole: Resizes and crops as in validation; who makes the loader knows how.
    """

    crop: Callable[[tuple[int, int]], Step] | None = None
    policy: Step | None = None
    paired: bool = False
    copies: int = 1
    placed: bool = False
    strength: Tensor | None = None
    plain: bool = False
    whole: Any = None

    def __bool__(self) -> bool:
        """Whether anything is changed."""
        steps = (self.crop, self.policy, self.strength)
        return self.paired or self.placed or self.copies > 1 or any(step is not None for step in steps)

    def apply(self, transform: Any) -> Any:
        """Puts a transform of timm's together anew.

        Args:
            transform: Steps as `timm.data.create_transform` puts them: crop and flips, policy and what goes with it,
                conversion; or these three stages one by one, which the data set of augmentation splits asks for.

        Returns:
            A `TrainingTransform`, or the three stages, with the changes.

        Raises:
            ValueError: Pairs or another policy are asked for, and there is no policy; or a crop cannot be traced.
        """
        stages = isinstance(transform, tuple)
        crop: Any
        crop, policy, convert = [stage.transforms for stage in transform] if stages else _split(transform.transforms)
        if (self.paired or self.policy is not None) and not any(isinstance(step, POLICIES) for step in policy):
            raise ValueError(
                'There is no policy in the loader to make pairs with or to replace: give create_loader '
                'auto_augment=args.aa.'
            )
        if self.crop is not None:
            crop = [
                self.crop(step.size) if isinstance(step, RandomResizedCropAndInterpolation) else step for step in crop
            ]
        if self.policy is not None:
            policy = [self.policy if isinstance(step, POLICIES) else step for step in policy]
        places: list[int] | None = [] if self.placed else None
        crop = _crop(crop, places)
        if self.plain and self.strength is not None:
            crop = Switched(crop, _crop([self.whole], places), self.strength)
        policy, convert = (transforms.Compose(self._fading(part)) for part in (policy, convert))
        if stages:
            return crop, policy, convert
        return TrainingTransform(crop, policy, convert, self.paired, self.copies, places)

    def _fading(self, steps: Sequence[Step]) -> list[Step]:
        if self.strength is None:
            return list(steps)
        return [Fading(step, self.strength) if isinstance(step, INTENSIVE) else step for step in steps]


class TrainingTransform:
    """One decoded image to what a batch holds of it.

    Attributes:
        crop: Crop and flips.
        policy: Policy, colour jitter, grayscale and blur, which make the augmented side of a pair.
        convert: Conversion to a tensor; where the loader does not do it, normalisation and erasing too.
        paired: Whether the crop is given before and after the policy.
        copies: How often all of it is done.
        places: What the crop adds its places to; None where images come without.
    """

    def __init__(
        self,
        crop: Step,
        policy: Step,
        convert: Step,
        paired: bool = False,
        copies: int = 1,
        places: list[int] | None = None,
    ):
        self.crop = crop
        self.policy = policy
        self.convert = convert
        self.paired = paired
        self.copies = copies
        self.places = places

    def __repr__(self) -> str:
        return f'{type(self).__name__}({", ".join(f"{name}={value}" for name, value in vars(self).items())})'

    def __call__(self, image: Image.Image) -> Tensor | Views | Placed:
        copies = [self._augment(image) for _ in range(self.copies)]
        views = Views(view for kind in zip(*copies) for view in kind)
        sample = views if len(views) > 1 else views[0]
        if self.places is None:
            return sample
        places = self.places.copy()
        self.places.clear()
        return Placed(sample, places)

    def without_policy(self) -> 'TrainingTransform':
        """The same for images that are cropped and flipped alone."""
        return TrainingTransform(self.crop, transforms.Compose([]), self.convert)

    def _augment(self, image: Image.Image) -> list[Tensor]:
        """One image of the sample; of a pair the clean one and the augmented one."""
        clean = self.crop(image)
        augmented = self.policy(clean)
        return [self.convert(side) for side in ((clean, augmented) if self.paired else (augmented,))]


class Fading:
    """A step of a transform that is applied with a probability which can change while workers run.

    Args:
        step: Takes and gives an image.
        strength: One number in shared memory: the probability. At 1 nothing is drawn.
    """

    def __init__(self, step: Step, strength: Tensor):
        self.step = step
        self.strength = strength

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.step})'

    def __call__(self, image):
        strength = self.strength.item()
        applied = strength >= 1.0 or strength > 0.0 and torch.rand(()).item() < strength
        return self.step(image) if applied else image


class Switched:
    """A step of a transform that gives way to another while workers run.

    Args:
        step: Takes and gives an image.
        other: The same, taken while `strength` is 0.
        strength: One number in shared memory.
    """

    def __init__(self, step: Step, other: Step, strength: Tensor):
        self.step = step
        self.other = other
        self.strength = strength

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.step}, {self.other})'

    def __call__(self, image):
        return (self.step if self.strength.item() > 0.0 else self.other)(image)


def whole_image(data_config: dict[str, Any]) -> Step:
    """What images go through in validation before they become tensors: resized, and their centre cropped.

    Args:
        data_config: `input_size` (C, H, W), `interpolation` and `crop_pct`.
    """
    names = ('input_size', 'interpolation', 'crop_pct')
    steps = create_transform(**{name: data_config[name] for name in names}, is_training=False).transforms
    return transforms.Compose(_split(steps)[0])


def shared_strength() -> Tensor:
    """Full strength: a number that loader workers see change, forked or spawned, while they run."""
    return torch.ones((), dtype=torch.float64).share_memory_()


class ChangedTransform(WrappedDataset):
    """A data set that changes the transform it is given.

    Args:
        dataset: Map-style data set.
        changes: The changes.
    """

    def __init__(self, dataset: Dataset, changes: TransformChanges):
        super().__init__(dataset)
        self.changes = changes

    def set_transform(self, transform: Any) -> None:
        self.dataset.transform = transform if transform is None else self.changes.apply(transform)


class ChangedStreamTransform(ChangedTransform, IterableImageDataset):
    """The same for an iterable data set, of a class that timm's loader tells epoch and workers to."""

    def __iter__(self):
        return iter(self.dataset)

    def set_epoch(self, count: int) -> None:
        if hasattr(self.dataset, 'set_epoch'):
            self.dataset.set_epoch(count)

    def set_loader_cfg(self, num_workers: int | None = None) -> None:
        if hasattr(self.dataset, 'set_loader_cfg'):
            self.dataset.set_loader_cfg(num_workers=num_workers)


class PlacedImages(WrappedDataset):
    """Images, labels, and where in its image each crop lies, for a loop of one's own; see `KeepCut.recycle`.

    An item is `(image, label, where)`, with the image (C, H, W) as the transform gives it and `where` int64 (9,): the
    number of the image, its height and width at the scale that the crop was cut at, the crop in these pixels (XYXY,
    half-open), and 1 for each flip that followed, left to right and upside down, else 0.

    Args:
        dataset: Map-style data set, of which this one changes the transform.
        transform: A training transform of `timm.data.create_transform`.

    Raises:
        ValueError: The transform crops in a way that is not known.
    """

    def __init__(self, dataset: Dataset, transform: transforms.Compose):
        super().__init__(dataset)
        self.transform = TransformChanges(placed=True).apply(transform)

    def __getitem__(self, index: int) -> tuple[Tensor, Any, Tensor]:
        placed, target = self.dataset[index]
        return placed.views, target, torch.tensor([index, *placed.places])


def change_transform(dataset: Dataset, changes: TransformChanges) -> Dataset:
    """A training set whose transform will be changed; itself where nothing is.

    Args:
        dataset: Map-style or iterable, before it goes to timm's loader factory.
        changes: The changes.
    """
    if not changes:
        return dataset
    return (ChangedStreamTransform if isinstance(dataset, IterableDataset) else ChangedTransform)(dataset, changes)


def find_changes(dataset: Dataset) -> TransformChanges:
    """What is changed under whatever wraps a training set."""
    changed = find_layer(dataset, ChangedTransform)
    return TransformChanges() if changed is None else changed.changes


def change_scheduled(dataset: Dataset) -> None:
    """Changes the transforms of a loader's data set where each batch has a size of its own: timm keeps them itself."""
    changes = find_changes(dataset)
    if changes and isinstance(dataset, ScheduledTransformDataset):
        dataset.transforms = tuple(map(changes.apply, dataset.transforms))


def list_steps(dataset: Dataset) -> Iterator[tuple[Step, bool]]:
    """What a loader's training set does to a decoded image, step by step; of several sizes to the largest.

    Returns:
        Each step, and whether it fades or gives way.
    """
    dataset = innermost(dataset)
    if isinstance(dataset, ScheduledTransformDataset):
        transform = dataset.transforms[-1]
    elif isinstance(dataset, NaFlexMapDatasetWrapper):
        transform = list(dataset.transforms.values())[-1]
    elif isinstance(dataset, AugMixDataset):
        transform = transforms.Compose([dataset.transform, dataset.augmentation, dataset.normalize])
    else:
        transform = dataset.transform
    return _flat_steps(transform)


def _flat_steps(transform: Any) -> Iterator[tuple[Step, bool]]:
    if isinstance(transform, transforms.Compose):
        for step in transform.transforms:
            yield from _flat_steps(step)
    elif isinstance(transform, TrainingTransform):
        for part in (transform.crop, transform.policy, transform.convert):
            yield from _flat_steps(part)
    elif isinstance(transform, Fading):
        yield transform.step, True
    elif isinstance(transform, Switched):
        for step, _ in _flat_steps(transform.step):
            yield step, True
    else:
        yield transform, False


def _crop(steps: Sequence[Step], places: list[int] | None) -> Step:
    return transforms.Compose(steps) if places is None else TracedCrop(steps, places)


def _split(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step], Sequence[Step]]:
    """The three stages of a transform's steps: crop and flips; policy and the like; conversion and all behind it."""
    end = next((index for index, step in enumerate(steps) if isinstance(step, CONVERSIONS)), len(steps))
    start = next((index for index, step in enumerate(steps[:end]) if isinstance(step, INTENSIVE)), end)
    return steps[:start], steps[start:end], steps[end:]
