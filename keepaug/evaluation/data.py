"""The images an evaluation asks for, in batches on the device."""

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from keepaug.console.interrupts import raise_pending_signal
from keepaug.console.progress import Progress
from keepaug.data.wrapped import Selection
from keepaug.evaluation.subject import Subject
from keepaug.measuring.replay import AugmentedBatches
from keepaug.training.forward import Forward

_logger = logging.getLogger('validate')

# A batch: normalised images (B, C, H, W), targets (B,), and the images' numbers in their data set.
Batch = tuple[Tensor, Tensor, list[int]]


@dataclass(frozen=True)
class PassSettings:
    """How the batches of a data set are shared among processes and followed on their way.

    Args:
        log_interval: Batches between log lines.
        rank: This process.
        world_size: Processes that share the images.
        progress: What shows how far each pass has come.
    """

    log_interval: int = 10
    rank: int = 0
    world_size: int = 1
    progress: Progress = field(default_factory=Progress)

    def follow(self, batches: Iterable[tuple], length: int, what: str) -> Iterator[tuple]:
        """The same batches, of which there are `length`, with lines of the log and progress on the way."""
        start, done = time.time(), 0
        with self.progress.validating(length, what):
            for position, batch in enumerate(batches):
                raise_pending_signal()
                yield batch
                images = len(batch[0]) * self.world_size
                done += images
                self.progress.advance(images)
                if self.rank == 0 and (position % self.log_interval == 0 or position + 1 == length):
                    rate = done / (time.time() - start)
                    _logger.info(f'{what}: [{position + 1:>4d}/{length}]  {rate:>7.2f} images/s')


class Batches:
    """Images in order, each once over all processes, whatever a distributed sampler repeats to come out even.

    Args:
        dataset: The set they come from.
        loader: Its batches, in the order of `numbers`, of which each process has every `world_size`-th image.
        numbers: The images' numbers in the data set.
        forward: How batches reach the model.
        what: Who goes through them, for the log; empty where another pass is followed meanwhile.
        settings: How they are shared and followed.
    """

    def __init__(
        self,
        dataset: Dataset,
        loader,
        numbers: Sequence[int],
        forward: Forward,
        what: str,
        settings: PassSettings = PassSettings(),
    ):
        self.dataset = dataset
        self.loader = loader
        self.numbers = numbers
        self.forward = forward
        self.what = what
        self.settings = settings

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.settings.follow(self._own(), len(self), self.what) if self.what else self._own()

    def _own(self) -> Iterator[Batch]:
        mine = self.numbers[self.settings.rank :: self.settings.world_size]
        done = 0
        for x, target in self.loader:
            numbers = list(mine[done : done + len(target)])
            if not numbers:
                return
            x, target = self.forward.place_batch(x, target)
            yield x[: len(numbers)], target[: len(numbers)], numbers
            done += len(numbers)


class Data:
    """Makes the batches that evaluations ask for, all by one evaluation transform.

    Args:
        dataset: Validation set, map-style.
        make_loader: Turns a data set into a loader in order, shared among the processes.
        open_training: Opens the training set, for evaluations that look at it.
        open_folder: Opens a folder of images without labels.
        open_augmented: Opens a classifier's training images as its run augmented them, of which the second argument
            chooses by the data set.
        forward: See `Batches`.
        samples: Images to choose of each set; None for all.
        seed: The choice follows from it.
        settings: See `Batches`.
    """

    def __init__(
        self,
        dataset: Any,
        make_loader: Callable[[Dataset], object],
        open_training: Callable[[], Dataset],
        open_folder: Callable[[str], Dataset],
        open_augmented: Callable[[Subject, Callable[[Any], Sequence[int]]], AugmentedBatches],
        forward: Forward,
        samples: int | None = None,
        seed: int = 0,
        settings: PassSettings = PassSettings(),
    ):
        self.dataset = dataset
        self.make_loader = make_loader
        self.open_training = open_training
        self.open_folder = open_folder
        self.open_augmented = open_augmented
        self.samples = samples
        self.seed = seed
        self.forward = forward
        self.settings = settings

    def validation(self, what: str, among: Sequence[int] | None = None) -> Batches:
        """Validation images, for the evaluation named `what`.

        Args:
            what: Its name.
            among: Numbers of the images to choose from, ascending; None for all.
        """
        if among is None:
            return self._batches(self.dataset, what)
        numbers = [among[place] for place in choose(len(among), self.samples, self.seed)]
        return self._batches(self.dataset, what, numbers)

    def partners(self) -> Batches:
        """The images of `validation` in another order, for pairs with those."""
        numbers = choose(len(self.dataset), self.samples, self.seed)
        order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(self.seed))
        return self._batches(self.dataset, '', [numbers[place] for place in order.tolist()])

    def training(self, what: str) -> Batches:
        """Training images, resized and cropped as in validation."""
        return self._batches(self.open_training(), what)

    def folder(self, path: str, what: str) -> Batches:
        """All images below a folder; their targets mean nothing.

        Raises:
            ValueError: The folder is missing or holds no image.
        """
        return self._batches(self.open_folder(path), what)

    def augmented(self, subject: Subject, what: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of `training`, in another order, as the run of a classifier augmented them; with their targets,
        class indices (B,) or mixed (B, K).

        Raises:
            ValueError: The run is not known, or its augmentation cannot be had.
        """
        batches = self.open_augmented(subject, lambda dataset: choose(len(dataset), self.samples, self.seed))
        return self.settings.follow(batches, len(batches), what)

    def _batches(self, dataset: Any, what: str, numbers: Sequence[int] | None = None) -> Batches:
        if numbers is None:
            numbers = choose(len(dataset), self.samples, self.seed)
        # A copy, for the loader gives the set a transform.
        loader = self.make_loader(Selection(copy.copy(dataset), numbers))
        return Batches(dataset, loader, numbers, self.forward, what, self.settings)


def choose(total: int, samples: int | None, seed: int) -> Sequence[int]:
    """Numbers of the images to look at, ascending: all, or a seeded choice.

    Image folders are sorted by class, so that the first few would be of one class.
    """
    if samples is None or samples >= total:
        return range(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:samples].sort().values.tolist()
