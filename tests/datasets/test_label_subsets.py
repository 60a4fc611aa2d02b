import pytest
import torch

from keepaug.datasets import balanced_subset

TARGETS = torch.arange(500) % 10


@pytest.mark.parametrize('count, shares', [(40, {4}), (250, {25}), (500, {50}), (43, {4, 5})])
def test_every_class_has_its_share(count, shares):
    chosen = balanced_subset(TARGETS, count, seed=3)
    assert len(set(chosen)) == len(chosen) == count and chosen == sorted(chosen)
    assert set(TARGETS[chosen].bincount().tolist()) == shares


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = balanced_subset(TARGETS, 40, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert balanced_subset(TARGETS.tolist(), 40, seed=3) == first
    assert balanced_subset(TARGETS, 40, seed=4) != first


def test_the_draw_is_uniform():
    """Of 20 samples of two classes, 4 are drawn 5,000 times: each in a fifth of the draws."""
    targets, counts, n = torch.arange(20) % 2, torch.zeros(20), 5000
    for seed in range(n):
        counts[balanced_subset(targets, 4, seed)] += 1
    assert (counts / n - 0.2).abs().max() < 4 * (0.16 / n) ** 0.5


def test_which_classes_have_one_more_is_drawn_too():
    extra = {
        label
        for seed in range(40)
        for label, share in enumerate(TARGETS[balanced_subset(TARGETS, 11, seed)].bincount().tolist())
        if share == 2
    }
    assert len(extra) > 5


def test_classes_need_not_be_numbered_in_a_row():
    assert balanced_subset([7, 7, 3, 3, 3], 2, seed=0) in ([a, b] for a in (0, 1) for b in (2, 3, 4))


@pytest.mark.parametrize(
    'targets, count, words',
    [
        (TARGETS, 9, 'count must be at least 10, .* got 9'),
        ([0, 0, 0, 1], 4, 'count must be at most 2, .* has 1 sample, got 4'),
    ],
)
def test_refusals(targets, count, words):
    with pytest.raises(ValueError, match=words):
        balanced_subset(targets, count, seed=0)
