"""Drawing regions: always on the right side of the quantile, and uniformly among all that are."""

import numpy as np
import pytest
import torch
from torch import Tensor

from keepaug.functional import region_scores, sample_regions
from tests.functional.reference import SIGNIFICANT, admitted_places, independent_p, rate_p, uniform_p

DRAWS = 10_000
# At 0.7 float64 misses the whole number 0.7 x 90, float32 meets it: all forms must count alike.
TAUS = [0.0, 0.6, 0.7, 1.0, None]
FORMS = ['one size', 'size per sample']


def draw(
    saliency: Tensor,
    size: tuple[int, int],
    tau: float | None,
    side: str,
    form: str,
    n: int = DRAWS,
    seed: int = 0,
) -> Tensor:
    """Boxes (n, 4) for maps (B, 1, H, W), which take turns; the window is given in one form or the other."""
    turn = torch.arange(n) % len(saliency)
    if form == 'one size':
        scores, given = region_scores(saliency, size), size
    else:
        scores, given = region_scores(saliency, torch.tensor([size] * len(saliency))), torch.tensor([size] * n)
    return sample_regions(scores[turn], given, tau, side, generator=torch.Generator().manual_seed(seed))


def assert_drawn_from(boxes: Tensor, admitted: np.ndarray) -> None:
    """The top-left corners are places of `admitted` (H, W), each with the same chance, and samples independent."""
    places = torch.from_numpy(np.flatnonzero(admitted))
    place = boxes[:, 1] * admitted.shape[1] + boxes[:, 0]
    index = torch.searchsorted(places, place).clamp(max=len(places) - 1)
    assert torch.equal(places[index], place), 'a place outside the quantile was drawn'
    if len(places) > 1:
        assert uniform_p(index, len(places)) > SIGNIFICANT
        same = (place[0::2] == place[1::2]).sum().item()
        assert rate_p(same, len(place) // 2, 1 / len(places)) > SIGNIFICANT


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side, drawn', [('low', {0.0, 1.0, 2.0, 3.0}), ('high', {5.0, 6.0, 7.0, 8.0})])
def test_planted_map(side, drawn, form):
    # Nine windows; the quantile is number floor(0.5 x 8) = 4, which is in neither half.
    saliency = torch.tensor([[4.0, 8.0, 0.0], [7.0, 1.0, 3.0], [2.0, 6.0, 5.0]])
    boxes = draw(saliency[None, None], (1, 1), 0.5, side, form)
    assert set(saliency[boxes[:, 1], boxes[:, 0]].tolist()) == drawn


@pytest.mark.parametrize('form', FORMS)
def test_boxes_are_xyxy_pixels(form):
    saliency = torch.ones(4, 1, 6, 9)
    saliency[:, :, 2:4, 3:8] = 0.0
    boxes = draw(saliency, (2, 5), 0.0, 'low', form, n=4)
    assert boxes.dtype == torch.int64
    assert boxes.tolist() == [[3, 2, 8, 4]] * 4


def maps(name: str) -> Tensor:
    """Forty maps (40, 1, 8, 14): their 2 x 2 windows are 7 x 13 = 91."""
    generator = torch.Generator().manual_seed(5)
    saliency = torch.randn(40, 1, 8, 14, generator=generator)
    return {
        'distinct': saliency,
        'ties': torch.randint(0, 3, saliency.shape, generator=generator).float(),
        'sparse': (saliency > 2.0).float(),
    }[name]


@pytest.mark.parametrize('name', ['distinct', 'ties', 'sparse'])
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', ['low', 'high'])
@pytest.mark.parametrize('tau', TAUS)
def test_never_violates_the_quantile(tau, side, form, name):
    saliency = maps(name)
    size = (2, 2)
    allowed = np.stack([admitted_places(scores, tau, side) for scores in region_scores(saliency, size)])
    boxes = draw(saliency, size, tau, side, form)
    assert torch.equal(boxes[:, 2:] - boxes[:, :2], torch.tensor([[2, 2]]).expand(len(boxes), 2))
    image = torch.arange(DRAWS) % len(saliency)
    assert allowed[image, boxes[:, 1], boxes[:, 0]].all()


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', ['low', 'high'])
@pytest.mark.parametrize('tau', [0.3, 0.7, None])
def test_uniform_among_the_admitted(tau, side, form):
    saliency = maps('distinct')[:1]
    admitted = admitted_places(region_scores(saliency, (2, 2))[0], tau, side)
    assert_drawn_from(draw(saliency, (2, 2), tau, side, form), admitted)


@pytest.mark.parametrize('form', FORMS)
def test_share_of_windows_below_the_quantile(form):
    # Distinct scores: exactly floor(0.6 x 90) = 54 of 91 windows are admitted, and each is drawn.
    boxes = draw(maps('distinct')[:1], (2, 2), 0.6, 'low', form)
    assert len(boxes.unique(dim=0)) == 54


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', ['low', 'high'])
def test_sizes_and_ends_of_tau(side, form):
    """All windows that there are, from one pixel to the whole image, at the quantiles where ties decide."""
    saliency = maps('distinct')[:1, :, :5, :6]
    for size in [(1, 1), (5, 6), (5, 1), (1, 6), (4, 5)]:
        for tau in (0.0, 1.0):
            admitted = admitted_places(region_scores(saliency, size)[0], tau, side)
            assert_drawn_from(draw(saliency, size, tau, side, form, n=2000), admitted)


@pytest.mark.parametrize('tau', TAUS)
@pytest.mark.parametrize('side', ['low', 'high'])
def test_every_sample_by_its_own_size(side, tau):
    sizes = torch.tensor([[1, 1], [9, 7], [9, 1], [1, 7], [3, 4], [8, 6], [2, 2], [5, 7], [9, 3], [4, 4]])
    saliency = torch.randn(10, 1, 9, 7, generator=torch.Generator().manual_seed(6))
    scores = region_scores(saliency, sizes)
    image = torch.arange(10).repeat(DRAWS // 10)
    boxes = sample_regions(scores[image], sizes[image], tau, side, generator=torch.Generator().manual_seed(7))
    assert torch.equal(boxes[:, 2:] - boxes[:, :2], sizes[image].flip(1))
    for sample in range(10):
        assert_drawn_from(boxes[image == sample], admitted_places(scores[sample], tau, side))


def test_ties_are_admitted_where_nothing_is_beyond():
    # Three quarters of the map are 0, so the quantile is 0 and nothing lies below it.
    saliency = torch.zeros(1, 1, 8, 8)
    saliency[:, :, :4, :4] = 1.0
    low = draw(saliency, (1, 1), 0.6, 'low', 'one size')
    assert_drawn_from(low, (saliency == 0.0)[0, 0].numpy())
    # Mirrored for the other side: three quarters are 1, and nothing lies above it.
    high = draw(1.0 - saliency, (1, 1), 0.6, 'high', 'one size')
    assert_drawn_from(high, (saliency == 0.0)[0, 0].numpy())


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('mark', [1.0, 1e-12, 1e12])
def test_sparse_map_protects_its_marks(mark, form):
    saliency = torch.zeros(1, 1, 16, 20)
    saliency[0, 0, 5, 12] = saliency[0, 0, 15, 19] = saliency[0, 0, 11, 0] = mark
    boxes = draw(saliency, (3, 4), 0.6, 'low', form)
    assert_drawn_from(boxes, (region_scores(saliency, (3, 4)) == 0.0)[0].numpy())


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', ['low', 'high'])
@pytest.mark.parametrize('tau', [0.0, 0.6, 1.0])
@pytest.mark.parametrize('value', [0.1, float('nan')])
def test_map_that_says_nothing_gives_a_uniform_draw(value, tau, side, form):
    boxes = draw(torch.full((1, 1, 7, 9), value), (3, 2), tau, side, form)
    assert_drawn_from(boxes, np.ones((5, 8), dtype=bool))
    assert boxes[:, 2].max() == 9 and boxes[:, 3].max() == 7, 'the last positions are positions too'
    assert independent_p(boxes[:, 0], 8) > SIGNIFICANT
    assert independent_p(boxes[:, 1], 5) > SIGNIFICANT


@pytest.mark.parametrize('value', [float('nan'), -float('inf')])
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', ['low', 'high'])
def test_scores_that_are_not_finite_give_a_uniform_draw(side, form, value):
    size = (3, 2) if form == 'one size' else torch.tensor([[3, 2]])
    saliency = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(8))
    scores = region_scores(saliency, size)
    usable = admitted_places(scores[0], 0.6, side)[:5, :8]
    scores = scores.repeat(2, 1, 1)
    scores[1, 2, 3] = value
    sample = torch.arange(2).repeat(DRAWS)
    size = size if form == 'one size' else size.expand(2 * DRAWS, 2)
    boxes = sample_regions(scores[sample], size, 0.6, side, generator=torch.Generator().manual_seed(9))
    assert_drawn_from(boxes[sample == 0], usable)
    assert_drawn_from(boxes[sample == 1], np.ones((5, 8), dtype=bool))


def test_one_placement_per_sample():
    boxes = draw(torch.zeros(1, 1, 3, 4), (1, 1), 0.6, 'low', 'one size')
    assert independent_p(boxes[:, 1] * 4 + boxes[:, 0], 12) > SIGNIFICANT


@pytest.mark.parametrize('form', FORMS)
def test_generator_is_the_only_source(form):
    saliency = torch.rand(64, 1, 9, 9)
    stream = torch.get_rng_state()
    first, again, other = (draw(saliency, (3, 3), 0.6, 'low', form, 64, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), stream)


def test_default_stream_without_generator():
    scores = region_scores(torch.rand(64, 1, 9, 9), (3, 3))
    torch.manual_seed(11)
    first = sample_regions(scores, (3, 3), 0.6)
    second = sample_regions(scores, (3, 3), 0.6)
    torch.manual_seed(11)
    assert torch.equal(sample_regions(scores, (3, 3), 0.6), first)
    assert not torch.equal(first, second)


def test_draws_on_the_generators_device():
    # The meta device stands for any other than the generator's; it has shapes and no numbers.
    scores = torch.empty(3, 5, 5, device='meta')
    boxes = sample_regions(scores, (3, 3), None, generator=torch.Generator().manual_seed(0))
    assert boxes.device.type == 'meta' and boxes.shape == (3, 4)


@pytest.mark.parametrize('tau', [-0.1, 1.1, float('nan')])
def test_refuses_what_is_no_quantile(tau):
    with pytest.raises(ValueError, match='tau'):
        sample_regions(torch.zeros(1, 3, 3), (1, 1), tau)


def test_refuses_an_unknown_side():
    with pytest.raises(ValueError, match="side is 'low' or 'high', got side = 'middle'"):
        sample_regions(torch.zeros(1, 3, 3), (1, 1), 0.6, 'middle')
