"""What the demo measures of cuts; its runs are those of `make demo`."""

import pytest
import torch

from keepaug import create_augment
from keepaug.demo import CUT, measure_cuts

pytest.importorskip('sklearn')


def test_shares_are_of_seeded_cuts():
    cut = create_augment('keep-cut', size=CUT, tau=None)
    measured = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        measured.append(measure_cuts(cut, 40))
    assert measured[0] == measured[1] != measure_cuts(cut, 40, seed=1)
    kept, removed = measured[0]
    assert removed == 25 and 0 < kept < 100, '20 px of 40'


@pytest.mark.parametrize('fill, kept', [(True, 0), (False, 100)])
def test_all_or_nothing_is_left_of_the_digit(fill, kept):
    def cut(x, target, generator):
        cut.last = {'mask': torch.full((len(x), 1, *x.shape[-2:]), fill)}

    assert measure_cuts(cut, 3) == (kept, 100 - kept)
