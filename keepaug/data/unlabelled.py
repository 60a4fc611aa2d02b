"""Batches of labelled and unlabelled images: a labelled one, and beside it several whose labels nobody sees.

One sample of such a data set is a group: a labelled image, cropped and flipped, and unlabelled ones, each twice, before
and after the policy. So collation, prefetching, workers, several processes and seeding are those of any data set. In a
batch all labelled images come first, then the unlabelled ones before the policy, then the same after it.
"""

import copy
import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from timm.data import ImageDataset
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from keepaug.data.classes import dataset_classes, name_classes
from keepaug.data.labels import read_labels
from keepaug.data.seeding import ORDER, mix, plain_loader
from keepaug.data.transform import ChangedTransform
from keepaug.data.views import Views
from keepaug.data.wrapped import WrappedDataset, find_layer, innermost
from keepaug.datasets import balanced_subset

UNLABELLED, LABELLED = EPOCHS = ('unlabelled', 'labelled')


class Labelled(NamedTuple):
    """The samples of a training set whose labels are seen.

    Attributes:
        numbers: Their numbers, ascending.
        classes: The class index of each.
    """

    numbers: Sequence[int]
    classes: Sequence[int]


class Group(NamedTuple):
    """What a sampler asks of `GroupedSamples`.

    Attributes:
        labelled: Which of the labelled samples, counted among them.
        unlabelled: Which of the unlabelled images.
    """

    labelled: int
    unlabelled: tuple[int, ...]


class GroupedSamples(WrappedDataset):
    """Groups of one labelled image and several unlabelled ones.

    Unlabelled are all images of the training set, those with labels too, and those of a further set. By a bare number
    it gives the sample of the training set.

    Args:
        dataset: Map-style training set, whose transform gives images before and after the policy.
        chosen: The samples whose labels are seen.
        ratio: Unlabelled images in a group.
        epoch: What an epoch passes over, a name in `EPOCHS`; of the other set it takes as much as it needs.
        further: Images without labels beside those of the training set, their transform changed likewise.
        labels_only: Leave the unlabelled images out of the groups, for a control with as many steps.
    """

    def __init__(
        self,
        dataset: Dataset,
        chosen: Labelled,
        ratio: int,
        epoch: str = UNLABELLED,
        further: Dataset | None = None,
        labels_only: bool = False,
    ):
        super().__init__(dataset)
        self.labelled = CropsOnly(dataset) if isinstance(dataset, ChangedTransform) else dataset
        self.chosen = chosen
        self.ratio = ratio
        self.epoch = epoch
        self.further: Any = further
        self.labels_only = labels_only

    def set_transform(self, transform: Any) -> None:
        parts: list[Any] = [self.dataset, self.labelled, self.further]
        for part in parts:
            if part is not None:
                part.transform = transform

    @property
    def images(self) -> int:
        """Unlabelled images."""
        return len(self.dataset) + (0 if self.further is None else len(self.further))

    def __len__(self) -> int:
        """Groups of an epoch. Where the ratio does not divide the unlabelled images, the last group fills up."""
        return math.ceil(self.images / self.ratio) if self.epoch == UNLABELLED else len(self.chosen.numbers)

    def describe_shortage(self, batch_size: int) -> str:
        """Why an epoch is less than one batch of so many groups, and the way out."""
        if self.epoch == LABELLED:
            return (
                f'--uda-epoch {LABELLED} passes over {len(self)} labelled images, fewer than one batch: lower '
                f'--batch-size {batch_size}, or leave out --uda-epoch.'
            )
        return (
            f'A batch of --batch-size {batch_size} and --uda-ratio {self.ratio} takes {batch_size * self.ratio} '
            f'unlabelled images in each process, but there are {self.images}: lower one of the two or add images.'
        )

    def __getitem__(self, request: Group | int) -> tuple[Any, Any]:
        if not isinstance(request, Group):
            return self.dataset[request]
        image, target = self.labelled[self.chosen.numbers[request.labelled]]
        if not request.unlabelled:
            return image, target
        before, after = zip(*map(self._pair, request.unlabelled))
        return Views((image, *before, *after)), target

    def _pair(self, number: int) -> Views:
        """An unlabelled image before and after the policy."""
        own = number < len(self.dataset)
        return self.dataset[number][0] if own else self.further[number - len(self.dataset)][0]


class CropsOnly(ChangedTransform):
    """The images of another data set, cropped and flipped likewise, and nothing else.

    Args:
        dataset: The other one; it keeps its transform.
    """

    def __init__(self, dataset: ChangedTransform):
        super().__init__(_copied(dataset.dataset), dataset.changes)

    def set_transform(self, transform: Any) -> None:
        self.dataset.transform = self.changes.apply(transform).without_policy()


class GroupSampler(Sampler):
    """The numbers that another sampler gives as groups: an epoch's own images, and as many of the others.

    The unlabelled images of a group, and its labelled one, come together anew in every epoch.

    Args:
        samples: Data set of the groups.
        sampler: Gives numbers of groups, each process its own.
        rank: This process.
        world_size: Processes, which share what is not given by number.

    Attributes:
        generator: Source of randomness; None for one that is seeded by torch's default one.
    """

    def __init__(self, samples: GroupedSamples, sampler: Sampler, rank: int = 0, world_size: int = 1):
        self.samples = samples
        self.sampler: Any = sampler  # with a length, and what else samplers of torch's and timm's have
        self.rank = rank
        self.world_size = world_size
        self.generator: torch.Generator | None = None

    def __getattr__(self, name: str) -> Any:
        # Epochs, where the sampler counts them, are its own.
        if name == 'sampler':
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Group]:
        generator = self.generator
        if generator is None:
            generator = torch.Generator().manual_seed(self._seed())
        if hasattr(self.sampler, 'generator'):
            self.sampler.generator = generator
        places = torch.tensor([*self.sampler], dtype=torch.int64)
        samples, ratio = self.samples, self.samples.ratio
        if samples.epoch == UNLABELLED:
            images = (places[:, None] * ratio + torch.arange(ratio)).flatten() % samples.images
            images = images[torch.randperm(len(images), generator=generator)]
            labelled = self._share(len(samples.chosen.numbers), len(places), generator)
        else:
            images = self._share(samples.images, len(places) * ratio, generator)
            labelled = places
        for number, group in zip(labelled.tolist(), images.view(-1, ratio).tolist()):
            yield Group(number, () if samples.labels_only else tuple(group))

    def _seed(self) -> int:
        """Several processes share one permutation, as torch's sampler of theirs does; one follows torch's stream."""
        if self.world_size > 1:
            return mix(self.sampler.seed, self.sampler.epoch, 0, ORDER)[0]
        return int(torch.empty((), dtype=torch.int64).random_())

    def _share(self, size: int, count: int, generator: torch.Generator) -> Tensor:
        """So many numbers below a size, this process's share of as many passes in random order as that takes."""
        wanted = count * self.world_size
        passes = [torch.randperm(size, generator=generator) for _ in range(math.ceil(wanted / size))]
        return torch.cat(passes)[self.rank : wanted : self.world_size]


def sample_groups(loader, samples: GroupedSamples, rank: int, world_size: int) -> None:
    """Lets a loader of timm's, with or without prefetcher, ask for groups."""
    batches: Any = plain_loader(loader).batch_sampler
    # That of --use-multi-epochs-loader is around another.
    batches = batches if hasattr(batches, 'drop_last') else batches.sampler
    batches.sampler = GroupSampler(samples, batches.sampler, rank, world_size)


def choose_labels(dataset: Dataset, count: int | None, seed: int) -> Labelled:
    """The samples whose labels a training sees: all, or as many of each class.

    Args:
        dataset: Map-style training set.
        count: Labels, or None for all.
        seed: The draw follows from it.

    Raises:
        HyperParameterError: `count` is too few for the classes, or a class has too few samples for it.
    """
    classes = read_labels(dataset)
    if count is None:
        return Labelled(range(len(classes)), classes)
    numbers = balanced_subset(classes, count, seed)
    return Labelled(numbers, [classes[number] for number in numbers])


def list_labels(dataset: Dataset) -> str:
    """The samples whose labels are seen, as the text of a csv file: number, class, name of the class, image file."""
    inner, names, groups = innermost(dataset), name_classes(dataset_classes(dataset)), find_groups(dataset)
    named = isinstance(inner, ImageDataset) and hasattr(inner.reader, 'samples')
    text = io.StringIO()
    rows = csv.writer(text, lineterminator='\n')
    rows.writerow(['number', 'class', 'name', 'file'])
    for number, label in zip(*(groups.chosen if groups is not None else ((), ()))):
        rows.writerow([number, label, names.get(label, ''), inner.filename(number) if named else ''])
    return text.getvalue()


def describe_further(dataset: Dataset) -> str:
    """The images that a further folder adds, by which it is known again wherever it lies; empty where there is none."""
    groups = find_groups(dataset)
    if groups is None or groups.further is None:
        return ''
    names = innermost(groups.further).filenames()
    checksum = hashlib.blake2b('\n'.join(names).encode(errors='surrogateescape'), digest_size=4).hexdigest()
    return f'{len(names)} images (names {checksum})'


def find_groups(dataset: Dataset) -> GroupedSamples | None:
    """The groups under whatever wraps a training set; None where there are none."""
    return find_layer(dataset, GroupedSamples)


def labelled_numbers(dataset: Any) -> Sequence[int]:
    """Numbers of the samples of a map-style training set whose labels are seen."""
    groups = find_groups(dataset)
    return range(len(dataset)) if groups is None else groups.chosen.numbers


def _copied(dataset: Dataset) -> Dataset:
    """A data set that shares everything with another but its transform."""
    copied = copy.copy(dataset)
    if isinstance(copied, WrappedDataset):
        copied.dataset = _copied(copied.dataset)
    return copied
