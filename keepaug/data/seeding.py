"""Random streams: kept as they are around what must not disturb a run, or seeded from numbers alone (`--exact-resume`).

Stock timm seeds once. What the streams give from then on depends on all that was drawn before, in each loader worker
too, and a resumed run begins anew. With `--exact-resume` they are seeded from the run's seed, the epoch and the process
at the start of each epoch, and in the loader, wherever its workers run, from the sample's place in the epoch besides.
"""

import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.data.loader import MultiEpochsDataLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from keepaug.data.wrapped import WrappedDataset

# What a seed is for, beside seed, epoch and process. The samples of an epoch follow from SAMPLES on.
STEPS, ORDER, SAMPLES = range(3)
# Stands for the epoch of samples that a measurement draws outside of all epochs, alike each time.
NO_EPOCH = 2**64 - 1


@contextmanager
def preserved_streams(device: torch.device | None = None, seed: int | None = None) -> Iterator[None]:
    """Gives all random streams of the host, and those of a device, their state back afterwards.

    Args:
        device: Device whose stream is kept too.
        seed: What to seed all of them with for the time between; None leaves them where they are.
    """
    numpy_state, python_state = np.random.get_state(legacy=False), random.getstate()
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == 'cuda' else []):
        if seed is not None:
            seed_streams(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def seed_streams(seed: int) -> None:
    """Seeds all random streams of the process."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def mix(seed: int, epoch: int, rank: int, purpose: int) -> tuple[int, int, int]:
    """Seeds for torch (64 bits), NumPy (32) and `random` (32) that differ wherever one of the numbers does."""
    # A hash, for neighbouring numbers must not give related streams. NumPy's SeedSequence is ten times as slow.
    numbers = struct.pack('<4Q', seed, epoch, rank, purpose)
    return struct.unpack('<QII', hashlib.blake2b(numbers, digest_size=16).digest())


def seed_epoch(args, epoch: int) -> None:
    """With `--exact-resume`, seeds what an epoch's training steps draw from; stock's streams go on without it."""
    if not args.exact_resume:
        return
    of_torch, of_numpy, of_python = mix(args.seed, epoch, args.rank, STEPS)
    torch.manual_seed(of_torch)
    np.random.seed(of_numpy)
    random.seed(of_python)


class Draw(NamedTuple):
    """What a sampler asks of `SeededSamples`.

    The epoch is part of it, for a loader may ask for the next epoch's samples before that epoch begins.

    Attributes:
        epoch: Epoch the sample is drawn in.
        place: How many samples this process drew in the epoch before.
        sample: Its number in the data set.
    """

    epoch: int
    place: int
    sample: int


class SeededSamples(WrappedDataset):
    """A data set whose samples are augmented alike wherever and whenever they are asked for by the same `Draw`.

    Collation, which follows in the same process, goes on with the last sample's streams. What asks by a bare number
    finds the streams as it left them.

    Args:
        dataset: Map-style data set.
        seed: Seed of the run.
        rank: This process.
    """

    def __init__(self, dataset: Dataset, seed: int, rank: int):
        super().__init__(dataset)
        self.seed = seed
        self.rank = rank

    def __getitem__(self, request: Draw | int):
        if not isinstance(request, Draw):
            return self.dataset[request]
        of_torch, of_numpy, of_python = mix(self.seed, request.epoch, self.rank, SAMPLES + request.place)
        # The host's stream alone: those of devices are the steps', and `torch.manual_seed` is ten times as slow.
        torch.default_generator.manual_seed(of_torch)
        np.random.seed(of_numpy)
        random.seed(of_python)
        return self.dataset[request.sample]


class SeededByNumber(SeededSamples):
    """The same for a loader that asks by bare numbers, each once in an epoch, as NaFlex's does."""

    def __init__(self, dataset: Dataset, seed: int, rank: int):
        super().__init__(dataset, seed, rank)
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that run already read it

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __getitem__(self, request: Draw | int):
        return super().__getitem__(request if isinstance(request, Draw) else Draw(int(self.epoch), request, request))


class EpochSampler(Sampler):
    """Another sampler's samples, as `Draw`s, in an order that the epoch determines.

    Args:
        sampler: The sampler; where it draws from torch's stream it gets a generator of its own.
        seed: Seed of the run.
    """

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler: Any = sampler  # with a length, and what else samplers of torch's and timm's have
        self.seed = seed
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.drawn = 0
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)
        if hasattr(self.sampler, 'generator'):
            self.sampler.generator = torch.Generator().manual_seed(mix(self.seed, epoch, 0, ORDER)[0])

    def __iter__(self) -> Iterator[Draw]:
        """One pass; there may be several in an epoch."""
        for index in self.sampler:
            yield Draw(self.epoch, self.drawn, index)
            self.drawn += 1


class SeededLoader:
    """A loader whose batches depend on the epoch alone, and whose draws leave the streams of the steps as they are.

    Without the latter, a run would depend on the number of workers: with none, samples are drawn in this process.

    Args:
        loader: Loader of `SeededSamples`, under the prefetcher if there is one.
        begin: Tells sampler or data set which epoch begins; may be left out where none of them asks.
    """

    def __init__(self, loader: DataLoader, begin: Callable[[int], None] = lambda epoch: None):
        self.loader = loader
        self.begin = begin
        self.epoch = 0

    def __getattr__(self, name: str) -> Any:
        if name == 'loader':
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator:
        if getattr(self.loader, 'iterator', None) is None:  # that of --use-multi-epochs-loader is in the epoch already
            self.begin(self.epoch)
        with preserved_streams():
            batches = iter(self.loader)
        while True:
            with preserved_streams():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def draws_outside_epochs(samples: Sequence[int]) -> list[Draw]:
    """Requests for samples by their numbers, with draws that no epoch has."""
    return [Draw(NO_EPOCH, place, index) for place, index in enumerate(samples)]


def plain_loader(loader) -> DataLoader:
    """torch's loader under all that is around it."""
    while hasattr(loader, 'loader'):
        loader = loader.loader
    return loader


def seed_samples(args, dataset: Dataset) -> Dataset:
    """The training set as `--exact-resume` asks for it; the data set itself without the flag.

    Raises:
        ValueError: It is a stream, whose order is its reader's.
    """
    if not args.exact_resume:
        return dataset
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f'--dataset {args.dataset} is a stream, but --exact-resume needs single images: drop one of the two.'
        )
    kind = SeededByNumber if args.naflex_loader else SeededSamples
    return kind(dataset, args.seed, args.rank)


def seed_loader(loader, dataset: Dataset, seed: int):
    """A loader of timm's, with or without prefetcher, as `--exact-resume` asks for it.

    Args:
        loader: What timm made of `dataset`.
        dataset: What `seed_samples` gave; a loader of other data is given back as it is.
        seed: Seed of the run.
    """
    if not isinstance(dataset, SeededSamples):
        return loader
    plain = plain_loader(loader)
    if isinstance(dataset, SeededByNumber):
        seeded = SeededLoader(plain, dataset.set_epoch)
    else:
        batches: Any = plain.batch_sampler
        if isinstance(plain, MultiEpochsDataLoader):
            batches = batches.sampler  # what repeats it for ever lets it know each epoch
        batches.sampler = EpochSampler(batches.sampler, seed)
        seeded = SeededLoader(plain, batches.sampler.set_epoch)
    if loader is plain:
        return seeded
    loader.loader = seeded
    return loader
