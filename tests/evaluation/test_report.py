"""What evaluations found, in files and pictures; and the images they ask for."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from keepaug.evaluation import Gallery, Panel, Report
from keepaug.evaluation.data import Batches, PassSettings, choose
from keepaug.evaluation.report import DOTS, HEIGHT, WIDTH, draw
from keepaug.measuring.intervals import wilson
from keepaug.training.forward import Forward
from keepaug.validation.runs import label_runs

PANEL = Panel('price', 'size in px', 'cost in $5', {'of one': ([0, 1], [0.5, 2.0])})


def report(**changes):
    return Report(
        **{**dict(evaluation='in-between', values={'auc': 12.345678}, settings={'images': 7}, note='Why.'), **changes}
    )


def test_a_row_and_a_line():
    assert report().columns() == {'in_between_auc': 12.3457}
    assert report().describe() == 'in-between: auc 12.3457 (images 7).'


def test_two_subjects_in_one_file_and_one_picture(tmp_path):
    gallery = Gallery(str(tmp_path / 'new'))
    gallery.add('a', report(panels=[PANEL]))
    gallery.add('b', report(panels=[PANEL, Panel('another', 'x', 'y', {'c': ([1], [1])}, yscale='log')]))
    gallery.add('b', report(evaluation='ood'))
    found = json.loads((tmp_path / 'new' / 'in-between.json').read_text())
    assert list(found) == ['a', 'b'] and found['a']['values'] == {'auc': 12.3457}
    assert found['b']['panels'][0]['curves'] == {'of one': [[0, 1], [0.5, 2.0]]}
    assert Image.open(tmp_path / 'new' / 'in-between.png').size == (round(2 * WIDTH * DOTS), round(HEIGHT * DOTS))
    assert not (tmp_path / 'new' / 'ood.png').exists()  # nothing to see


def test_sheets_stand_below_diagrams():
    sheet = Image.new('RGB', (300, 50), 'red')
    alone = draw({'a': report(picture=sheet)})
    assert alone.size == (300, 50)
    whole = draw({'a': report(panels=[PANEL], picture=sheet), 'b': report(panels=[PANEL])})
    assert whole.height == round(HEIGHT * DOTS) + 50 and whole.getpixel((0, whole.height - 1)) == (255, 0, 0)


@pytest.mark.parametrize('subjects, curves, colours', [(1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 3, 2)])
def test_colours_tell_classifiers_where_there_are_several_and_curves_else(subjects, curves, colours):
    panel = Panel('price', 'x', 'y', {f'curve {number}': ([0, 1], [number, 2.0]) for number in range(curves)})
    whole = np.asarray(draw({f'${number}': report(panels=[panel]) for number in range(subjects)}))
    # The first colours of matplotlib's cycle.
    cycle = [(31, 119, 180), (255, 127, 14), (44, 160, 44)]
    assert [bool((whole == colour).all(-1).any()) for colour in cycle] == [place < colours for place in range(3)]


def test_names_are_no_mathematics():
    """Of folders, which titles and axes bear too; of checkpoints; of classes."""
    name = r'a$\frac$'
    draw({name: report(panels=[Panel(name, name, name, {name: ([0, 1], [0, 1])})]), 'b': report()})


def test_a_place_is_marked():
    alone, marked = (
        np.asarray(draw({'a': report(panels=[dataclasses.replace(PANEL, marked=place)])})) for place in (None, 0.5)
    )
    columns = (alone != marked).any(-1).sum(0)
    assert 0 < (columns > 200).sum() == (columns > 0).sum() < 5, 'a line from top to bottom, and nothing else'


def test_intervals_and_what_is_to_be_beaten():
    """Bands in the colour of their curve around it; the baseline in gray, once, and in the legend."""
    panel = dataclasses.replace(
        PANEL,
        intervals={'of one': ([0.2, 1.5], [0.8, 2.5])},
        baseline='guessing',
        baselines={'': ([0, 1], [0.3, 0.3])},
    )
    plain, whole, both = (
        np.asarray(draw(dict.fromkeys(names, report(panels=[shown])))).astype(int)
        for names, shown in (('a', PANEL), ('a', panel), ('ab', panel))
    )
    pale = [round(255 - 0.15 * (255 - part)) for part in (31, 119, 180)]
    gray = [128, 128, 128]

    def count(picture, colour):
        return (abs(picture - colour).max(-1) <= 1).sum()

    assert count(plain, pale) < 50 < 2000 < count(whole, pale)
    assert count(plain, gray) < count(whole, gray) and count(both, gray) < 2 * count(whole, gray)
    assert count(both, gray) > 0


def test_intervals_of_shares():
    """Wilson's, against those of SciPy."""
    from scipy import stats

    for hits, images in ((0, 10), (3, 10), (10, 10), (700, 1000)):
        low, high = wilson(torch.tensor([hits / images]), images)
        wanted = stats.binomtest(hits, images).proportion_ci(method='wilson')
        assert (low.item(), high.item()) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


@pytest.mark.parametrize(
    'shortest, paths, labels',
    [
        (1, ['a/last.pth.tar'], ['last.pth.tar']),
        (1, ['runs/a/last.pth.tar', 'runs/b/last.pth.tar'], ['a', 'b']),
        (1, ['runs/a/last.pth.tar', 'runs/a/best.pth.tar'], ['last.pth.tar', 'best.pth.tar']),
        (1, ['runs/a/last.pth.tar', 'runs/b/best.pth.tar'], ['last.pth.tar', 'best.pth.tar']),
        (1, ['x/a/1', 'x/b/1', 'x/a/2'], ['a-1', 'b-1', 'a-2']),
        (1, ['a/last', 'a/last'], ['last', 'last']),
        (1, ['last', 'a/last'], ['last', 'a-last']),
        (1, ['a/last', 'a/last/', 'b/first'], ['last', 'last', 'first']),
        (2, ['a-b/c.pth', 'a/b-c.pth'], ['a-b-c.pth', 'a-b-c.pth-2']),
        (1, ['a-b/c', 'a/b-c', 'd/c'], ['c', 'b-c', 'c-2']),
        (2, ['a-b/c', 'a/b-c', 'a-b/c-2', 'a/b-c'], ['a-b-c', 'a-b-c-3', 'a-b-c-2', 'a-b-c-3']),
        (1, ['a/b/last', 'c/b/last/'], ['a', 'c']),
        (1, ['resnet18', 'resnet34'], ['resnet18', 'resnet34']),
        (2, ['runs/a/last.pth.tar', 'runs/b/best.pth.tar'], ['a-last.pth.tar', 'b-best.pth.tar']),
        (2, ['runs/a/last.pth.tar', 'runs/b/last.pth.tar'], ['a', 'b']),
        (2, ['runs/a/last.pth.tar', 'runs/a/best.pth.tar'], ['last.pth.tar', 'best.pth.tar']),
        (2, ['resnet18', 'resnet34'], ['resnet18', 'resnet34']),
        (2, ['runs/a/last.pth.tar', 'resnet34'], ['a-last.pth.tar', 'resnet34']),
    ],
)
def test_labels(shortest, paths, labels):
    assert label_runs(paths, shortest) == labels


def test_a_long_legend_stays_within_the_picture():
    """And the settings above it: nothing touches the edges."""
    names = [f'a rather long name of run {number}, model_best.pth.tar' for number in range(3)]
    settings = {f'a setting of number {number}': number for number in range(6)}
    whole = np.asarray(draw({name: report(panels=[PANEL], settings=settings) for name in names}))
    assert (whole[:, [0, -1]] == 255).all() and (whole[[0, -1]] == 255).all()


def test_a_file_is_whole_or_as_it_was(tmp_path):
    """Killed while it writes, or without room."""
    gallery = Gallery(str(tmp_path))
    gallery.add('a', report(panels=[PANEL]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def break_off(*_, **__):
        raise OSError(28, 'No space left on device')

    for broken in ('json.dumps', 'PIL.Image.Image.save'):
        with mock.patch(broken, break_off), pytest.raises(ValueError, match='No space left'):
            gallery.add('b', report(panels=[PANEL]))
        assert (tmp_path / 'in-between.png').read_bytes() == before['in-between.png']
        assert set(json.loads((tmp_path / 'in-between.json').read_text())) in ({'a'}, {'a', 'b'})
        assert {path.name for path in tmp_path.iterdir()} == set(before)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='--analysis-dir .*choose another'):
        Gallery(str(tmp_path / 'file')).add('a', report())


class Numbers(Dataset):
    def __len__(self):
        return 7


@pytest.mark.parametrize('world_size', [1, 2, 3])
def test_each_image_once_over_all_processes(world_size):
    numbers, seen = [10, 11, 12, 13, 14, 15, 16], []
    for rank in range(world_size):
        mine = [numbers[i % 7] for i in range(rank, -(-7 // world_size) * world_size, world_size)]  # as timm pads
        parts = [torch.tensor(mine[start : start + 2]) for start in range(0, len(mine), 2)]
        batches = [(part, part) for part in parts]
        settings = PassSettings(rank=rank, world_size=world_size)
        for x, target, found in Batches(Numbers(), batches, numbers, Forward(), 'test', settings):
            assert x.tolist() == target.tolist() == found
            seen += found
    assert sorted(seen) == numbers


def test_a_choice_is_seeded_and_not_the_first():
    assert list(choose(5, None, 0)) == list(choose(5, 9, 0)) == [0, 1, 2, 3, 4]
    chosen = choose(1000, 20, 0)
    assert chosen == choose(1000, 20, 0) and chosen == sorted(set(chosen)) and len(chosen) == 20
    assert chosen != choose(1000, 20, 1) and max(chosen) > 500
