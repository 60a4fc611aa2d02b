"""What a checkpoint tells of its run is looked at before files are deleted and written by it."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch

from keepaug.record.history import check_run
from keepaug.record.saver import Saver
from tests.scripts import TINY, refuse_train, run_train, write_images


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory) -> Path:
    return run_train(f'{data} {TINY} --exact-resume --stop-epoch 1', tmp_path_factory.mktemp('finished'))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('flags', ['', '--exact-resume'])
@pytest.mark.parametrize('name', ['{outside}', '../outside'])
def test_files_elsewhere_are_left_alone(name, flags, data, finished, tmp_path, capsys):
    """The run ends before anything is deleted or written, in its folder or elsewhere."""
    outside, run = tmp_path / 'outside', tmp_path / 'run'
    outside.write_text('precious')
    shutil.copytree(finished, run)
    held = torch.load(run / 'last.pth.tar', weights_only=False)
    held['saver']['checkpoint_files'].append((name.format(outside=outside), 1.0))
    torch.save(held, run / 'last.pth.tar')
    before = tree(tmp_path)
    said = refuse_train(f'{data} {TINY} --checkpoint-hist 1 --resume auto {flags}', tmp_path, capsys)
    assert f'error: --resume {run}/last.pth.tar is refused: it holds ' in said
    assert 'outside' in said and '--initial-checkpoint' in said
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    'changes',
    [
        dict(checkpoint_files=[('deeper/checkpoint-3.pth.tar', 1.0)]),
        dict(checkpoint_files=[('summary.csv', 1.0)]),
        dict(checkpoint_files=[('last.pth.tar', 1.0)]),
        dict(checkpoint_files=[('checkpoint-3.pth.tar\n', 1.0)]),
        dict(checkpoint_files=[(3, 1.0)]),
        dict(checkpoint_files=['checkpoint-3.pth.tar']),
        dict(checkpoint_files='checkpoint-3.pth.tar'),
        dict(checkpoint_files=[('checkpoint-3.pth.tar', 'best')]),
        dict(pending=('/../../outside', 1.0)),
        dict(pending=(3, [1.0])),
        dict(best_epoch='../outside'),
        dict(best_metric=[1.0]),
        dict(row={'epoch': '../outside'}),
        dict(row={'epoch': 3, 'loss': [1.0]}),
    ],
)
def test_strange_histories(changes, finished, tmp_path):
    held = torch.load(finished / 'last.pth.tar', weights_only=False)
    check_run(held, 'some.pth')
    held['saver'] |= changes
    with pytest.raises(ValueError, match='some.pth is refused: it holds '):
        check_run(held, 'some.pth')
    model = torch.nn.Linear(1, 1)
    saver = Saver(model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(tmp_path), max_history=1)
    for take in (saver.load_state_dict, saver.finish_saving):
        with pytest.raises(ValueError, match='no run can continue from it'):
            take(held['saver'])


@pytest.mark.parametrize(
    'changes', [dict(epoch='1'), dict(epoch=-1), dict(epoch=None, version='2'), dict(epoch=True), dict(saver=[])]
)
def test_strange_epochs(changes):
    with pytest.raises(ValueError, match='some.pth is refused: it holds '):
        check_run(dict(epoch=3, version=2) | changes, 'some.pth')


def test_what_runs_write_is_not_refused(finished):
    for path in finished.glob('*.pth.tar'):
        check_run(torch.load(path, weights_only=False), str(path))
    check_run({}, 'weights alone', needs_epoch=False)  # where --start-epoch says it
    with pytest.raises(ValueError, match='weights alone holds no epoch.*: give --start-epoch'):
        check_run({}, 'weights alone')
    check_run(dict(epoch=3, version=2, saver=None, args=argparse.Namespace()), 'older timm')
