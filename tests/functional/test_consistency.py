"""The loss on unlabelled images, and what anneals that on labelled ones, against slow loops."""

import math

import pytest
import torch

from keepaug.functional import annealed_cross_entropy, annealing_threshold, consistency_loss


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in row]
    return [power / sum(powers) for power in powers]


def slow_consistency(logits, augmented, temperature, threshold) -> tuple[float, list[bool]]:
    """Of every image by itself, in plain numbers."""
    total, confident = 0.0, []
    for clean, changed in zip(logits.tolist(), augmented.tolist()):
        confident.append(max(softmax(clean)) > threshold)
        if confident[-1]:
            pairs = zip(softmax(clean, temperature), softmax(changed))
            total += sum(p * (math.log(p) - math.log(q)) for p, q in pairs)
    return total / len(confident), confident


@pytest.mark.parametrize('temperature', [1.0, 0.4, 2.0])
@pytest.mark.parametrize('threshold', [0.0, 0.5, 0.8])
def test_consistency_is_that_of_a_slow_loop(temperature, threshold):
    generator = torch.Generator().manual_seed(0)
    logits, augmented = (2 * torch.randn(50, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    loss, confident = consistency_loss(logits, augmented, temperature, threshold)
    wanted, rows = slow_consistency(logits, augmented, temperature, threshold)
    assert loss.item() == pytest.approx(wanted, rel=1e-5) and confident.tolist() == rows
    assert 0 < sum(rows) and (sum(rows) < 50 or threshold == 0.0)


def test_the_same_said_of_both_costs_nothing():
    logits = torch.randn(8, 4)
    assert consistency_loss(logits, logits)[0].item() == pytest.approx(0.0, abs=1e-6)
    assert consistency_loss(logits, logits, temperature=0.4)[0] > 0.01  # the sharpened target is another


def test_no_gradient_reaches_the_target():
    logits, augmented = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    consistency_loss(logits, augmented, 0.4, 0.3)[0].backward()
    assert logits.grad is None and augmented.grad.abs().sum() > 0


def test_the_mask_is_of_what_exceeds_the_threshold_before_sharpening():
    # Probabilities of two classes: half each, 0.75 and 0.9.
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(9), 0.0]])
    threshold = logits.softmax(1)[1].max().item()
    augmented = torch.zeros(3, 2, requires_grad=True)
    loss, confident = consistency_loss(logits, augmented, temperature=0.1, threshold=threshold)
    assert confident.tolist() == [False, False, True]
    loss.backward()
    assert augmented.grad.abs().sum(1).bool().tolist() == [False, False, True]
    assert loss.item() == pytest.approx(math.log(2) / 3, rel=1e-3)  # over all three rows
    assert consistency_loss(logits, augmented, 0.1, 0.95)[0] == 0.0


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [0.0, 0.0]])
    augmented = torch.tensor([[-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    loss = consistency_loss(logits, augmented, 0.1, 0.8)[0]
    loss.backward()
    assert loss.isfinite() and augmented.grad.isfinite().all()


@pytest.mark.parametrize('schedule, first, half', [('linear', 0.0, 0.5), ('log', 0.0, 1 - math.exp(-2.5))])
def test_thresholds_rise_from_chance(schedule, first, half):
    assert annealing_threshold(schedule, 0.0, 4) == pytest.approx(0.25 + 0.75 * first)
    assert annealing_threshold(schedule, 0.5, 4) == pytest.approx(0.25 + 0.75 * half)
    assert annealing_threshold(schedule, 1.0, 4) == pytest.approx(1.0, abs=0.01)


def test_exp_releases_late():
    linear, late, early = (annealing_threshold(name, 0.5, 10) for name in ('linear', 'exp', 'log'))
    assert late < linear < early
    assert annealing_threshold('exp', 1.0, 10) == 1.0


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('threshold', [0.3, 0.6, 1.0])
def test_annealed_cross_entropy_is_that_of_a_slow_loop(threshold, smoothing):
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (40,), generator=generator)
    losses = []
    for row, label in zip(logits.tolist(), target.tolist()):
        probabilities = softmax(row)
        if probabilities[label] <= threshold:
            wanted = [(label == k) * (1 - smoothing) + smoothing / 3 for k in range(3)]
            losses.append(-sum(share * math.log(p) for share, p in zip(wanted, probabilities)))
    loss = annealed_cross_entropy(logits, target, threshold, smoothing).item()
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert len(losses) < 40 or threshold == 1.0


def test_where_all_is_known_nothing_is_learnt():
    logits = torch.tensor([[9.0, 0.0]], requires_grad=True)
    loss = annealed_cross_entropy(logits, torch.tensor([0]), 0.5)
    loss.backward()
    assert loss == 0.0 and (logits.grad == 0.0).all()
