"""The images an evaluation asks for, in batches on the device."""
import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from keepaug.engine.risk import Selection

_logger = logging.getLogger('validate')

# A batch: normalised images (B, C, H, W), targets (B,), and the images' numbers in their data set.
Batch = tuple[Tensor, Tensor, list[int]]


class Batches:
    """Images in order, each once over all processes, whatever a distributed sampler repeats to come out even.

    Args:
        dataset: The set they come from.
        loader: Its batches, in the order of `numbers`, every `world_size`-th one from `rank` on.
        numbers: The images' numbers in the data set.
        place: Brings a batch to the device.
        what: Who goes through them, for the log; empty for no lines.
        log_interval: Batches between log lines.
        rank: This process.
        world_size: Processes that share the images.
    """

    def __init__(
            self,
            dataset: Dataset,
            loader,
            numbers: Sequence[int],
            place: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
            what: str,
            log_interval: int = 10,
            rank: int = 0,
            world_size: int = 1,
    ):
        self.dataset = dataset
        self.loader = loader
        self.numbers = numbers
        self.place = place
        self.what = what
        self.log_interval = log_interval
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        mine = self.numbers[self.rank::self.world_size]
        start, done = time.time(), 0
        for position, (x, target) in enumerate(self.loader):
            numbers = list(mine[done:done + len(target)])
            if not numbers:
                return
            x, target = self.place(x, target)
            yield x[:len(numbers)], target[:len(numbers)], numbers
            done += len(numbers)
            if self.what and self.rank == 0 and (position % self.log_interval == 0 or position + 1 == len(self)):
                rate = done * self.world_size / (time.time() - start)
                _logger.info(f'{self.what}: [{position + 1:>4d}/{len(self)}]  {rate:>7.2f} images/s')


class Data:
    """Makes the batches that evaluations ask for, all by one evaluation transform.

    Args:
        dataset: Validation set, map-style.
        make_loader: Turns a data set into a loader in order, shared among the processes.
        open_training: Opens the training set, for evaluations that look at it.
        open_folder: Opens a folder of images without labels.
        place: See `Batches`.
        samples: Images to choose of each set; None for all.
        seed: The choice follows from it.
        log_interval: See `Batches`.
        rank: See `Batches`.
        world_size: See `Batches`.
    """

    def __init__(
            self,
            dataset: Dataset,
            make_loader: Callable[[Dataset], object],
            open_training: Callable[[], Dataset],
            open_folder: Callable[[str], Dataset],
            place: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
            samples: int | None = None,
            seed: int = 0,
            log_interval: int = 10,
            rank: int = 0,
            world_size: int = 1,
    ):
        self.dataset = dataset
        self.make_loader = make_loader
        self.open_training = open_training
        self.open_folder = open_folder
        self.samples = samples
        self.seed = seed
        self.of_batches = dict(place=place, log_interval=log_interval, rank=rank, world_size=world_size)

    def validation(self, what: str) -> Batches:
        """Validation images, for the evaluation named `what`."""
        return self._batches(self.dataset, what)

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

    def _batches(self, dataset: Dataset, what: str, numbers: Sequence[int] | None = None) -> Batches:
        if numbers is None:
            numbers = choose(len(dataset), self.samples, self.seed)
        # A copy, for the loader gives the set a transform.
        loader = self.make_loader(Selection(copy.copy(dataset), numbers))
        return Batches(dataset, loader, numbers, what=what, **self.of_batches)


def choose(total: int, samples: int | None, seed: int) -> Sequence[int]:
    """Numbers of the images to look at, ascending: all, or a seeded choice.

    Image folders are sorted by class, so that the first few would be of one class.
    """
    if samples is None or samples >= total:
        return range(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:samples].sort().values.tolist()
