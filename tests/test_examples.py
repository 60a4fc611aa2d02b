"""The examples run as a reader runs them, and do what they say."""

import contextlib
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.processes import run_together

EXAMPLES = Path(__file__).parents[1] / 'examples'
LOOPS = {  # by the library that each needs beyond keepaug
    'recycled_saliency': 'torch',
    'torchvision_reference': 'torchvision',
    'lightning_module': 'lightning',
    'hf_accelerate': 'accelerate',
}
SHORT = ('plain_ddp', *LOOPS)
OTHERS = {'detection', 'reidentification'}  # each with a file of tests
NEEDED = {**LOOPS, 'detection': 'torchmetrics', 'reidentification': 'pytorch_metric_learning'}


def run(name, *flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [f'{name}.py', *flags])
        runpy.run_path(str(EXAMPLES / f'{name}.py'), run_name='__main__')


def assert_learned(out):
    """The last line tells a share before and one after."""
    before, after = map(int, re.findall(r'(\d+)%', out.splitlines()[-1]))
    assert after > before + 20


@pytest.mark.parametrize('name, library', LOOPS.items())
def test_loop_learns(name, library, capsys):
    pytest.importorskip(library)
    run(name)
    assert_learned(capsys.readouterr().out)


def test_reidentification_learns(tmp_path, capsys):
    """The lines of its head; the persons that are sought are not those it was trained on."""
    pytest.importorskip('pytorch_metric_learning')
    run('reidentification', '--draw-toys', str(tmp_path / 'toys'))
    settings = '--model test_resnet --size 64 32 --epochs 16 --lr 2e-3 --persons 8 --workers 0 --keep'
    run('reidentification', '--data-dir', str(tmp_path / 'toys'), *settings.split())
    assert_learned(capsys.readouterr().out)


def _run_process(rank, folder):
    with open(folder / str(rank), 'w') as file, contextlib.redirect_stdout(file):
        run('plain_ddp')


def test_ddp_learns_in_two_processes(tmp_path):
    run_together(2, _run_process, tmp_path)
    assert_learned((tmp_path / '0').read_text())
    assert (tmp_path / '1').read_text() == ''


@pytest.mark.parametrize('name', [*SHORT, *sorted(OTHERS)])
def test_help_is_given_before_anything_is_done(name, capsys):
    pytest.importorskip(NEEDED.get(name, 'torch'))
    with pytest.raises(SystemExit) as leave:
        run(name, '--help')
    assert leave.value.code == 0 and '--help' in capsys.readouterr().out


@pytest.mark.parametrize(
    'words, named',
    [
        ('plain_ddp', 'torchrun'),
        ('detection --backbone /absent', '--backbone /absent'),
        ('detection --backbone /absent --epochs 0', '--epochs must be at least 1, got 0'),
        ('detection --coco /proc/here', '--coco /proc/here cannot be written'),
        ('reidentification --data-dir /absent', '--data-dir /absent has no folder bounding_box_train'),
        ('reidentification --data-dir /absent --persons 0', '--persons must be at least 1, got 0'),
        ('reidentification --draw-toys /', '--draw-toys / exists'),
    ],
)
def test_what_cannot_be_is_a_sentence(words, named, capsys, monkeypatch):
    name, *flags = words.split()
    pytest.importorskip(NEEDED.get(name, 'torch'))
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    with pytest.raises(SystemExit) as leave:
        run(name, *flags)
    said = capsys.readouterr().err.splitlines()[-1]
    assert leave.value.code == 2 and 'error: ' in said and named in said


@pytest.mark.parametrize('name', SHORT)
def test_loops_are_short(name):
    assert len((EXAMPLES / f'{name}.py').read_text().splitlines()) < 60


def test_every_example_is_here():
    assert {path.stem for path in EXAMPLES.glob('*.py')} == {*SHORT, *OTHERS}
