"""Streams that depend on seed, epoch, process and place alone."""

import random

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.loader import MultiEpochsDataLoader
from torch.utils.data import DataLoader, Dataset, Subset

from keepaug.data.seeding import (
    ORDER,
    SAMPLES,
    STEPS,
    Draw,
    SeededByNumber,
    SeededSamples,
    mix,
    preserved_streams,
    seed_loader,
)


class Draws(Dataset):
    """Samples that are their number and one draw from each stream."""

    transform = None

    def __len__(self):
        return 50

    def __getitem__(self, index: int):
        return torch.tensor([index, *_draw()], dtype=torch.float64)


def _draw() -> list[float]:
    return [torch.rand((), dtype=torch.float64).item(), np.random.random(), random.random()]


def _collate(samples: list) -> torch.Tensor:
    """Draws too, as timm's mixing collate function does."""
    return torch.cat([torch.stack(samples).flatten(), torch.tensor(_draw(), dtype=torch.float64)])


def epochs(
    loader_class=DataLoader,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    first: int = 0,
    images: Dataset = Draws(),
) -> list[torch.Tensor]:
    """All that two epochs of a loader give."""
    dataset = SeededSamples(images, seed, rank)
    loader = loader_class(
        dataset,
        batch_size=8,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=workers > 0,
    )
    loader = seed_loader(loader, dataset, seed)
    given = []
    for epoch in range(first, first + 2):
        loader.set_epoch(epoch)
        given.append(torch.stack(list(loader)))
    return given


@pytest.fixture(scope='module')
def plain() -> list[torch.Tensor]:
    return epochs()


@pytest.mark.parametrize('workers', [0, 1, 3])
@pytest.mark.parametrize('loader_class', [DataLoader, MultiEpochsDataLoader])
def test_loader_and_workers_do_not_matter(loader_class, workers, plain):
    torch.manual_seed(random.randrange(100))
    for got, wanted in zip(epochs(loader_class, workers), plain, strict=True):
        assert torch.equal(got, wanted)


def test_data_sets_that_can_give_whole_batches_are_asked_for_samples(plain):
    assert torch.equal(epochs(images=Subset(Draws(), range(50)))[0], plain[0])


def test_later_epochs_need_no_earlier_ones(plain):
    assert torch.equal(epochs(first=1)[0], plain[1])


def test_epochs_ranks_and_seeds_differ(plain):
    given = torch.stack([*plain, epochs(rank=1)[0], epochs(seed=1)[0]])
    for place in (1, 2, 3):  # of each stream no draw occurs twice, in a sample or while collating
        draws = torch.cat([given[..., place:32:4].flatten(), given[..., 31 + place].flatten()])
        assert len(draws.unique()) == len(draws) == 4 * 6 * (8 + 1)
    orders = [epoch[:, :32:4].flatten().tolist() for epoch in given[[0, 1, 3]]]
    assert all(len(set(order)) == len(order) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == given[2, :, :32:4].flatten().tolist(), 'processes share it'


def test_loading_leaves_the_streams_alone():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    wanted = _draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    epochs()
    assert _draw() == wanted


def test_bare_numbers_draw_from_the_streams_as_they_are():
    dataset = SeededSamples(Draws(), 0, 0)
    assert torch.equal(dataset[Draw(0, 5, 3)], dataset[Draw(0, 5, 3)])
    assert not torch.equal(dataset[Draw(0, 5, 3)], dataset[Draw(0, 6, 3)])
    assert not torch.equal(dataset[3], dataset[3])


def test_seeded_by_number():
    dataset = SeededByNumber(Draws(), 0, 0)
    first = dataset[3]
    dataset.set_epoch(1)
    assert not torch.equal(dataset[3], first)
    dataset.set_epoch(0)
    assert torch.equal(dataset[3], first)


def test_preserved_streams():
    with preserved_streams(torch.device('cpu'), seed=3):
        once = _draw()
    with preserved_streams(seed=3):
        assert _draw() == once
    state = torch.get_rng_state()
    with preserved_streams():
        _draw()
    assert torch.equal(state, torch.get_rng_state())


def test_seeds_differ_and_their_streams_are_independent():
    """First draws over samples, epochs, ranks and seeds next to each other: uniform, and neighbours uncorrelated."""
    numbers = [
        (seed, epoch, rank, purpose)
        for seed in range(2)
        for epoch in range(3)
        for rank in range(2)
        for purpose in (STEPS, ORDER, *range(SAMPLES, SAMPLES + 1000))
    ]
    seeds = [mix(*each) for each in numbers]
    assert len(set(seeds)) == len(numbers)
    draws = torch.zeros(len(seeds), 3, dtype=torch.float64)
    with preserved_streams():
        for row, (of_torch, of_numpy, of_python) in zip(draws, seeds):
            torch.default_generator.manual_seed(of_torch)
            np.random.seed(of_numpy)
            random.seed(of_python)
            row.copy_(torch.tensor(_draw()))
    assert all(stats.kstest(column, 'uniform').pvalue > 1e-4 for column in draws.T.numpy())
    centred = draws - 0.5
    # 12 E[ab] is the correlation of uniform variables; its spread is 1 / sqrt(n).
    limit = 5 / len(numbers) ** 0.5
    for lag in (1, 2, 1002, 2004, 6012):
        assert (12 * centred[lag:].T @ centred[:-lag] / (len(numbers) - lag)).abs().max() < limit * 1.5
    assert abs(12 * (centred[:, 0] * centred[:, 1]).mean()) < limit
