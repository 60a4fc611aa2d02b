"""What the demo measures of cuts; its runs are those of `make demo`."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from keepaug import create_augment, options
from keepaug.demo import (
    ARMS,
    CUT,
    IMAGES,
    MEAN,
    MODEL,
    MODEL_KWARGS,
    SIZE,
    STUDIED,
    STUDY,
    WIDTH,
    draw_table,
    measure_cuts,
    read_studied,
)
from keepaug.study.plan import plan_runs
from keepaug.study.statistics import spread_of
from keepaug.study.study import read_study

pytest.importorskip('sklearn')


def test_shares_are_of_seeded_cuts():
    cut = create_augment('keep-cut', size=CUT, tau=None)
    measured = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        measured.append(measure_cuts(cut, 40))
    assert measured[0] == measured[1] != measure_cuts(cut, 40, seed=1)
    kept, removed = measured[0]
    assert removed == pytest.approx(16) and 0 < kept < 100, '16 px of 40'


@pytest.mark.parametrize('fill, kept', [(True, 0), (False, 100)])
def test_all_or_nothing_is_left_of_the_digit(fill, kept):
    def cut(x, target, generator):
        cut.last = {'mask': torch.full((len(x), 1, *x.shape[-2:]), fill)}

    cut.recycled = None
    assert measure_cuts(cut, 3) == (kept, 100 - kept)


def test_the_demo_says_of_its_runs_what_the_study_does(tmp_path):
    for run in plan_runs(read_study(str(STUDY)), tmp_path, 1, ARMS):
        args = options.parse_options(options.create_parser(), run.words)
        kwargs = {name: tuple(value) if isinstance(value, list) else value for name, value in args.model_kwargs.items()}
        assert (args.model, kwargs) == (MODEL, MODEL_KWARGS)
        assert (args.img_size, args.train_num_samples, args.mean * 3) == (SIZE, IMAGES, list(MEAN))
        assert run.arm.name == 'none' or args.keep_size == CUT


def test_the_study_has_seeds_of_every_arm():
    studied = read_studied(STUDIED)
    assert all(len(studied[arm]) > 1 for arm in ARMS)


def test_the_table_has_a_line_for_each_arm_on_a_narrow_screen(tmp_path):
    """Neither the arm nor what the study found goes on in a second line."""
    (tmp_path / 'clock.csv').write_text('0,13.4\n1,26.8\n')
    run = SimpleNamespace(folder=tmp_path, curve=lambda column: [(1, 93.1)])
    console = Console(width=WIDTH, file=io.StringIO())
    console.print(draw_table(dict.fromkeys(ARMS, run), dict.fromkeys(ARMS, (100.0, 16.0))))
    lines = console.file.getvalue().splitlines()
    for arm, studied in read_studied(STUDIED).items():
        if arm in ARMS:
            (line,) = (line for line in lines if line.strip().startswith(f'{arm} '))
            assert f'16.0 % 100.0 % 93.1 %  13.4 {spread_of(list(studied.values())).mean:.1f} ± ' in line
