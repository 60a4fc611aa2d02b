"""Windows cut off at the border: the regions of published Cutout and CutMix, blindly and by saliency."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from timm.data.mixup import rand_bbox
from torch import Tensor

from keepaug import create_augment
from keepaug.functional import region_scores
from keepaug.ranges import HyperParameterError
from tests.functional.reference import SIGNIFICANT, admitted_places, uniform_p
from tests.functional.toys import linear_model

DRAWS = 40_000
# Odd and even edges differ in how a square lies around its centre.
EDGES = [3, 4]
KINDS = ['inside', 'overflow']


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = DRAWS, size: tuple[int, int] = (6, 7)) -> tuple[Tensor, Tensor]:
    """Images of one value: where a region lies does not depend on them. Their labels are all the second of two."""
    return torch.ones(1, 1, 1, 1).expand(n, 1, *size), torch.ones(n, dtype=torch.long)


def one_map(size: tuple[int, int] = (6, 7)) -> torch.nn.Module:
    """A model of the same saliency for all images."""
    return linear_model(torch.randn(2, 1, *size, generator=seeded(1)))


def keep(mode: str, tau: float | None, **settings):
    more = dict(num_classes=2, mixing='elem') if mode == 'cutmix' else {}
    model = None if tau is None else one_map()
    return create_augment(
        'keep-cut', model=model, mode=mode, tau=tau, saliency='full', windows='overflow', **more, **settings
    )


def drawn_boxes(augment, seed: int, n: int = DRAWS) -> Tensor:
    """Boxes (n, 4) of a batch."""
    augment(*images(n), seeded(seed))
    return augment.last['boxes'][:, 0]


def rows(values: Tensor | np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(row) for row in values.reshape(len(values), -1).tolist()]


def stock_boxes(alpha: float) -> np.ndarray:
    """As many boxes of timm's CutMix for images of 6 x 7 pixels."""
    state = np.random.get_state()
    np.random.seed(6)
    lam = np.random.beta(alpha, alpha, DRAWS)
    # Lambdas of one size are drawn at once.
    edges = np.stack([(edge * np.sqrt(1 - lam)).astype(int) for edge in (6, 7)])
    _, first, counts = np.unique(edges, axis=1, return_index=True, return_counts=True)
    drawn = [rand_bbox((6, 7), lam[index], count=count) for index, count in zip(first, counts)]
    np.random.set_state(state)
    return np.concatenate([np.stack([x0, y0, x1, y1], 1) for y0, y1, x0, x1 in drawn])


def alike_p(first: list, second: list) -> float:
    """Chance of two samples as different as these if they are drawn from the same distribution."""
    counts = [Counter(sample) for sample in (first, second)]
    common = [value for value in counts[0] | counts[1] if counts[0][value] + counts[1][value] >= 20]
    table = [[count[value] for value in common] for count in counts]
    rest = [len(sample) - sum(line) for sample, line in zip((first, second), table)]
    if sum(rest):
        table = [[*line, more] for line, more in zip(table, rest)]
    return chi2_contingency(table).pvalue


# Exact.


@pytest.mark.parametrize('edge', EDGES)
def test_size_is_what_the_border_leaves_of_a_square_anywhere(edge):
    """Around a centre in a corner, on an edge and in the middle of 6 x 7 pixels."""
    boxes = set(rows(drawn_boxes(keep('cutout', None, size=edge), 0)))
    before, after = edge // 2, (edge + 1) // 2
    wanted = {
        (max(0, x - before), max(0, y - before), min(7, x + after), min(6, y + after))
        for y in range(6)
        for x in range(7)
    }
    assert boxes == wanted


def test_chosen_by_saliency_and_blindly_have_the_same_sizes():
    """The same draw fixes the size; only the place differs."""
    for mode, settings in (('cutout', dict(size=4)), ('cutmix', dict())):
        kept, blind = (drawn_boxes(keep(mode, tau, **settings), 2) for tau in (0.6, None))
        assert torch.equal(kept[:, 2:] - kept[:, :2], blind[:, 2:] - blind[:, :2])
        assert not torch.equal(kept, blind)


def test_one_box_for_a_batch_that_draws_once():
    """As stock's CutMix has it; with saliency the size is one, and every image has its place."""
    kept, blind = (
        create_augment('keep-cut', model=one_map(), num_classes=2, mode='cutmix', tau=tau, windows='overflow')
        for tau in (0.6, None)
    )
    for seed in range(10):
        assert len(drawn_boxes(blind, seed, 64).unique(dim=0)) == 1
        boxes = drawn_boxes(kept, seed, 64)
        assert len((boxes[:, 2:] - boxes[:, :2]).unique(dim=0)) == 1 and kept.last['lam'].unique().numel() == 1


# Reference.


@pytest.mark.parametrize('tau', [0.0, 0.6, 1.0])
@pytest.mark.parametrize('mode', ['cutout', 'cutmix'])
def test_place_is_below_the_quantile_among_windows_of_its_size(mode, tau):
    augment = keep(mode, tau)
    augment.size = 4
    boxes = drawn_boxes(augment, 3, 500)
    weights = augment.last['saliency'][:1]
    sizes = set()
    for x0, y0, x1, y1 in boxes.tolist():
        assert 0 <= x0 <= x1 <= 7 and 0 <= y0 <= y1 <= 6
        if x1 > x0 and y1 > y0:
            scores = region_scores(weights, (y1 - y0, x1 - x0))[0]
            assert admitted_places(scores, tau, 'low')[y0, x0]
            sizes.add((y1 - y0, x1 - x0))
    assert len(sizes) > 4


def test_label_follows_the_pixels_left():
    augment = keep('cutmix', 0.6)
    augment(*images(500), seeded(4))
    assert torch.allclose(augment.last['lam'], (~augment.last['mask']).double().mean((1, 2, 3)))


# Statistical.


@pytest.mark.parametrize('edge', EDGES)
def test_blind_is_cutout(edge):
    blind, cutout = keep('cutout', None, size=edge), create_augment('cutout', size=edge)
    for seed, augment in enumerate((blind, cutout)):
        augment(*images(), seeded(seed))
    masks = [rows(augment.last['mask'].long()) for augment in (blind, cutout)]
    assert alike_p(*masks) > SIGNIFICANT


@pytest.mark.parametrize('alpha', [0.3, 1.0])
def test_blind_is_stocks_cutmix(alpha):
    boxes = drawn_boxes(keep('cutmix', None, cutmix_alpha=alpha), 5)
    assert alike_p(rows(boxes), rows(stock_boxes(alpha))) > SIGNIFICANT


@pytest.mark.parametrize('mode', ['cutout', 'cutmix'])
def test_saliency_removes_as_much_as_a_blind_draw(mode):
    areas = []
    for seed, tau in enumerate((0.6, None)):
        augment = keep(mode, tau, **(dict(size=4) if mode == 'cutout' else {}))
        augment(*images(), seeded(seed))
        areas.append(rows(augment.last['mask'].sum((1, 2, 3))))
    assert alike_p(*areas) > SIGNIFICANT


def test_every_admitted_window_of_a_size_is_drawn_alike():
    augment = keep('cutout', 0.6, size=4)
    boxes = drawn_boxes(augment, 7)
    for height, width in ((2, 2), (3, 3), (4, 4), (4, 3)):
        drawn = boxes[(boxes[:, 2] - boxes[:, 0] == width) & (boxes[:, 3] - boxes[:, 1] == height)]
        scores = region_scores(augment.last['saliency'][:1], (height, width))[0]
        places = torch.from_numpy(np.flatnonzero(admitted_places(scores, 0.6, 'low')))
        place = drawn[:, 1] * scores.shape[1] + drawn[:, 0]
        index = torch.searchsorted(places, place)
        assert torch.equal(places[index], place) and uniform_p(index, len(places)) > SIGNIFICANT


def edge_left(edge: int, whole: int, windows: str) -> float:
    """Mean length of a region's edge in an image of so many pixels."""
    if windows == 'inside':
        return edge
    return sum(min(c + (edge + 1) // 2, whole) - max(c - edge // 2, 0) for c in range(whole)) / whole


def share_removed(edge: int, whole: int, windows: str) -> float:
    """Mean share of a square image that a square region takes."""
    return (edge_left(edge, whole, windows) / whole) ** 2


def mean_lam(whole: int, windows: str) -> float:
    """Mean own share under CutMix of alpha 1: an edge is k with probability ((k + 1)^2 - k^2) / whole^2."""
    return 1 - sum((2 * k + 1) / whole**2 * share_removed(k, whole, windows) for k in range(whole))


@pytest.mark.parametrize('windows', KINDS)
def test_share_removed_and_mean_lambda(windows):
    x, target = images(20_000, (8, 8))
    cutout, cutmix = (
        create_augment('keep-cut', mode=mode, num_classes=2, tau=None, windows=windows, **settings)
        for mode, settings in (('cutout', dict(size=4)), ('cutmix', dict(mixing='elem')))
    )
    cutout(x, target, seeded(8))
    removed = cutout.last['mask'].double().mean((1, 2, 3))
    error = removed.std().item() / len(x) ** 0.5
    assert removed.mean().item() == pytest.approx(share_removed(4, 8, windows), abs=5 * error + 1e-9)
    cutmix(x, target, seeded(9))
    error = cutmix.last['lam'].std().item() / len(x) ** 0.5
    assert cutmix.last['lam'].mean().item() == pytest.approx(mean_lam(8, windows), abs=5 * error)


def test_shares_that_the_documentation_tells():
    text = (Path(__file__).parents[2] / 'docs' / 'methods.md').read_text()
    for name, inside, overflow in (
        ('Cutout of 16 px, image of 32 px', *(share_removed(16, 32, kind) for kind in KINDS)),
        ('Cutout of 40 px, image of 224 px', *(share_removed(40, 224, kind) for kind in KINDS)),
        ('CutMix, image of 32 px', *(mean_lam(32, kind) for kind in KINDS)),
        ('CutMix, image of 224 px', *(mean_lam(224, kind) for kind in KINDS)),
    ):
        if 'Cutout' in name:
            row = f'| {name}: removed | {100 * inside:.1f} % | {100 * overflow:.1f} % |'
        else:
            row = f'| {name}: mean lambda | {inside:.2f} | {overflow:.2f} |'
        assert row in text


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(mode='erase'), 'windows must be inside for erase'),
        (dict(mode='cutmix', num_classes=2, cutmix_minmax=(0.2, 0.8)), 'windows must be inside beside cutmix_minmax'),
        (dict(windows='over'), 'windows must be inside or overflow, got over'),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(HyperParameterError, match=message):
        create_augment('keep-cut', tau=None, **{'windows': 'overflow', **settings})


@pytest.mark.parametrize(
    'windows, tau, said',
    [
        ('inside', None, 'anywhere inside the image'),
        ('overflow', None, 'anywhere, over the border too'),
        ('overflow', 0.6, 'tau 0.6, saliency full, as large as one anywhere, over the border too'),
    ],
)
def test_description(windows, tau, said):
    augment = create_augment('keep-cut', model=one_map(), tau=tau, saliency='full', windows=windows)
    assert augment.describe((32, 32)).endswith(said)
