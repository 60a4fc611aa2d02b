"""Mixed images: made by hand, against a loop, and a classifier that never leaves the pair."""

import pytest
import timm
import torch
from torch import nn

from keepaug.evaluation.in_between import TENTHS, cutmix, in_between, mixup
from tests.evaluation.subjects import make_batches, make_subject


class Brightest(nn.Module):
    """The class is the channel with the largest mean."""

    def forward(self, x):
        return x.mean((2, 3))


def coloured(classes, channels=4):
    return nn.functional.one_hot(classes, channels).float()[:, :, None, None].expand(-1, -1, 8, 8)


def subject_of(model, channels):
    return make_subject(model, channels)


def test_mixed_by_hand():
    one, zero = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    assert mixup(one, zero, 0.25).unique().tolist() == [0.25]
    places = torch.tensor([[0.0, 0.99]])
    mixed = cutmix(one, zero, 0.75, places)  # a box of 2 x 2, at the top, as far right as it goes
    assert mixed[0, 0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert torch.equal(cutmix(one, zero, 1.0, places), one)
    assert torch.equal(cutmix(one, zero, 0.0, places), zero)


def test_a_classifier_that_stays_within_the_pair():
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 3, 0])
    report = in_between(
        subject_of(Brightest(), 4), make_batches(coloured(first), first), make_batches(coloured(second), second)
    )
    assert set(report.values.values()) == {0}
    assert report.settings['pairs'] == 3  # one pair is of one class


def test_a_classifier_that_names_a_third_class():
    first, second = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 2])

    class Third(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot(torch.full((len(x),), 2), 3).float()

    report = in_between(
        subject_of(Third(), 3), make_batches(coloured(first, 3), first), make_batches(coloured(second, 3), second)
    )
    for value in report.values.values():
        assert value == pytest.approx(100 * 2 / 3)  # of the last pair it is one of the two


def test_no_pair_of_different_classes():
    classes = torch.tensor([1, 1, 1])
    batches = make_batches(coloured(classes), classes)
    with pytest.raises(ValueError, match='no pair of different classes among 3 images'):
        in_between(subject_of(Brightest(), 4), batches, batches)


def test_as_one_pair_at_a_time():
    torch.manual_seed(0)
    x, other = torch.randn(2, 9, 3, 32, 32)
    target, other_target = torch.randint(5, (2, 9))
    model = timm.create_model('test_resnet', num_classes=5).eval()
    reports = [
        in_between(make_subject(model, seed=2), make_batches(x, target, size), make_batches(other, other_target, size))
        for size in (2, 9)
    ]
    assert reports[0] == reports[1]
    pairs = [i for i in range(9) if target[i] != other_target[i]]
    for tenth in (0, 3, 10):
        wrong = sum(
            model((tenth / TENTHS * x[i] + (1 - tenth / TENTHS) * other[i])[None]).argmax().item()
            not in (target[i], other_target[i])
            for i in pairs
        )
        assert reports[0].panels[0].curves['mixup'][1][tenth] == pytest.approx(100 * wrong / len(pairs))
    # Where one image is whole, both mixers show it.
    mixup_curve, cutmix_curve = (reports[0].panels[0].curves[name][1] for name in ('mixup', 'cutmix'))
    assert (mixup_curve[0], mixup_curve[-1]) == (cutmix_curve[0], cutmix_curve[-1])
