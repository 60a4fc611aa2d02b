"""Region scores: window sums that are right, and equal where windows are."""

import pytest
import torch

from keepaug.functional import region_scores
from tests.functional.reference import window_sums

PLANTED = torch.tensor(
    [
        [1.0, 2.0, 0.0, 0.0],
        [0.0, 3.0, 4.0, 0.0],
        [5.0, 0.0, 6.0, 7.0],
    ]
)
NAN = float('nan')


def test_planted_map():
    scores = region_scores(PLANTED[None, None], (2, 2))
    assert scores.dtype == torch.float64
    assert scores.tolist() == [[[6.0, 9.0, 4.0], [8.0, 13.0, 17.0]]]


def test_planted_map_with_one_size_per_sample():
    scores = region_scores(PLANTED.expand(3, 1, 3, 4), torch.tensor([[2, 2], [1, 3], [3, 4]]))
    expected = torch.tensor(
        [
            [[6.0, 9.0, 4.0, NAN], [8.0, 13.0, 17.0, NAN], [NAN, NAN, NAN, NAN]],
            [[3.0, 2.0, NAN, NAN], [7.0, 7.0, NAN, NAN], [11.0, 13.0, NAN, NAN]],
            [[28.0, NAN, NAN, NAN], [NAN, NAN, NAN, NAN], [NAN, NAN, NAN, NAN]],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(scores, expected, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize('size', [(1, 1), (3, 4), (2, 9), (7, 1), (1, 11), (7, 4), (7, 11)])
@pytest.mark.parametrize('height, width', [(7, 11), (11, 12)])
def test_equals_slow_sums(height, width, size):
    saliency = torch.randn(3, 1, height, width, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([window_sums(one, size) for one in saliency[:, 0]])
    h, w = size

    scores = region_scores(saliency, size)
    torch.testing.assert_close(scores, expected, rtol=0.0, atol=1e-9)

    per_sample = region_scores(saliency, torch.tensor([size] * 3))
    assert per_sample.shape == (3, height, width)
    valid = torch.zeros(3, height, width, dtype=torch.bool)
    valid[:, : height - h + 1, : width - w + 1] = True
    assert torch.equal(per_sample.isnan(), ~valid)
    assert torch.equal(per_sample[valid], scores.flatten()), 'the two forms must compare equal, not only close'


def test_each_sample_has_its_own_size():
    generator = torch.Generator().manual_seed(1)
    saliency = torch.rand(40, 1, 9, 8, generator=generator)
    sizes = torch.stack(
        [torch.randint(1, 10, (40,), generator=generator), torch.randint(1, 9, (40,), generator=generator)], 1
    )
    scores = region_scores(saliency, sizes)
    for one, (h, w), row in zip(saliency[:, 0], sizes.tolist(), scores):
        expected = torch.full((9, 8), NAN, dtype=torch.float64)
        expected[: 9 - h + 1, : 8 - w + 1] = window_sums(one, (h, w))
        torch.testing.assert_close(row, expected, rtol=0.0, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize('factor', [1.0, 0.1, 1 / 3, 1e-30, 3e30])
@pytest.mark.parametrize('size', [(40, 40), (37, 61)])
def test_constant_map_has_one_score(size, factor):
    saliency = torch.ones(1, 1, 224, 224) * factor
    for form in (size, torch.tensor([size])):
        scores = region_scores(saliency, form)
        (score,) = scores[~scores.isnan()].unique().tolist()
        assert score == pytest.approx(size[0] * size[1] * saliency[0, 0, 0, 0].item(), rel=1e-9)


def test_equal_windows_compare_equal_anywhere():
    generator = torch.Generator().manual_seed(2)
    # Ten orders of magnitude; a running sum in floating point remembers the large values it has passed.
    saliency = torch.exp(torch.empty(1, 1, 96, 128).uniform_(-16.0, 8.0, generator=generator))
    patch = torch.exp(torch.empty(10, 12).uniform_(-16.0, -4.0, generator=generator)) * 0.1
    corners = [(0, 0), (86, 116), (3, 57), (40, 9), (71, 100), (0, 116), (86, 0)]
    for y, x in corners:
        saliency[0, 0, y : y + 10, x : x + 12] = patch
    for form in ((10, 12), torch.tensor([[10, 12]])):
        scores = region_scores(saliency, form)[0]
        assert len({scores[y, x].item() for y, x in corners}) == 1
        assert scores[0, 0].item() == pytest.approx(patch.double().sum().item(), rel=1e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_type(dtype):
    saliency = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(3)).to(dtype)
    scores = region_scores(saliency, (3, 2))
    assert scores.dtype == torch.float64
    assert torch.equal(scores, region_scores(saliency.double(), (3, 2)))
    torch.testing.assert_close(scores[0], window_sums(saliency[0, 0], (3, 2)), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize('per_sample', [False, True])
def test_map_that_is_not_finite_is_flat(per_sample):
    saliency = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    saliency[0, 0, 2, 3] = NAN
    saliency[1, 0, 5, 5] = float('inf')
    saliency[2, 0, 0, 0] = -float('inf')
    saliency[3] = NAN
    size = torch.tensor([[2, 3]] * 5) if per_sample else (2, 3)
    scores = region_scores(saliency, size)[:, :5, :4]
    assert torch.equal(scores[:4], torch.zeros(4, 5, 4, dtype=torch.float64))
    torch.testing.assert_close(scores[4], window_sums(saliency[4, 0], (2, 3)), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize('value', [1e-320, 5e-324, 1e-300, 1e300, 0.0])
def test_ends_of_the_number_range(value):
    scores = region_scores(torch.full((1, 1, 4, 4), value, dtype=torch.float64), (2, 2))
    assert scores.isfinite().all()
    assert len(scores.unique()) == 1
    assert scores[0, 0, 0].item() == pytest.approx(4 * value, rel=1e-9, abs=1e-300)


def test_keeps_no_graph_and_leaves_the_map_alone():
    saliency = torch.rand(1, 1, 5, 5, requires_grad=True)
    before = saliency.detach().clone()
    assert not region_scores(saliency, (2, 2)).requires_grad
    assert torch.equal(saliency.detach(), before)


@pytest.mark.parametrize('shape', [(2, 3, 4, 4), (2, 4, 4), (4, 4)])
def test_refuses_what_is_no_map(shape):
    with pytest.raises(ValueError, match='saliency must be'):
        region_scores(torch.zeros(shape), (2, 2))


@pytest.mark.parametrize('size', [(0, 2), (2, 0), (5, 2), (2, 7), (-1, 2)])
def test_refuses_a_window_that_does_not_fit(size):
    with pytest.raises(ValueError, match=f'{size[0]} x {size[1]} px does not fit into an image of 4 x 6 px'):
        region_scores(torch.zeros(1, 1, 4, 6), size)
