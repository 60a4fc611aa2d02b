"""Checkpoints: their ranking, and what a kill between two files leaves to be done."""

import math
from pathlib import Path

import pytest
import torch

from keepaug.record.saver import Saver
from tests.scripts import TINY, run_train


def saver(folder: Path, **settings) -> Saver:
    model = torch.nn.Linear(1, 1)
    return Saver(
        model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(folder), recovery_dir=str(folder), **settings
    )


def ranked(saver: Saver) -> list[tuple[str, float | None]]:
    return [(Path(path).name.removesuffix('.pth.tar'), metric) for path, metric in saver.checkpoint_files]


@pytest.mark.parametrize('decreasing, best', [(False, (1.5, 1)), (True, (1.2, 2))])
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_ranks_last(bad, decreasing, best, tmp_path):
    one = saver(tmp_path, max_history=2, decreasing=decreasing)
    assert one.save_checkpoint(0, bad) == (None, None) and one.last_good() == ''
    assert not (tmp_path / 'model_best.pth.tar').exists()
    one.save_checkpoint(1, 1.5)
    assert one.save_checkpoint(2, 1.2) == best
    assert one.last_good() == f'{tmp_path}/last.pth.tar'
    assert one.save_checkpoint(3, bad) == best
    assert {name for name, _ in ranked(one)} == {'checkpoint-1', 'checkpoint-2'}, 'none of them gave way'
    assert one.last_good() == f'{tmp_path}/checkpoint-2.pth.tar'
    held = torch.load(tmp_path / 'last.pth.tar', weights_only=True)
    assert held['metric'] == bad or math.isnan(bad) and math.isnan(held['metric']), 'of a whole epoch, as its key tells'
    assert held['saver']['pending'] == (3, None), 'for stock, which would let it win'


def test_a_nan_that_had_won_wins_no_longer(tmp_path):
    """In a history that timm's own saver wrote."""
    for epoch in range(3):
        saver(tmp_path).save_checkpoint(epoch, 0.5)
    one = saver(tmp_path, max_history=3)
    one.load_state_dict(
        dict(
            checkpoint_files=[('checkpoint-0.pth.tar', math.nan), ('checkpoint-1.pth.tar', 0.7)],
            best_epoch=0,
            best_metric=math.nan,
            pending=(2, 0.6),
        )
    )
    assert ranked(one) == [('checkpoint-1', 0.7), ('checkpoint-2', 0.6), ('checkpoint-0', None)]
    assert one.save_checkpoint(3, 0.8) == (0.8, 3)


@pytest.mark.parametrize('exact', ['', '--exact-resume'])
def test_the_best_is_not_lost_between_two_files(exact, data, tmp_path):
    """A run that is killed once `last.pth.tar` has its name, and goes on."""
    flags = f'{data} {TINY} {exact} --save-epochs 1 --opt sgd'
    run = run_train(f'{flags} --stop-epoch 1', tmp_path)
    names = ('checkpoint-0', 'model_best', 'milestone-1')
    for name in names:
        (run / f'{name}.pth.tar').unlink()
    run_train(f'{flags} --resume auto', tmp_path)
    for name in names:
        assert torch.load(run / f'{name}.pth.tar', weights_only=False)['epoch'] == 0
    history = torch.load(run / 'last.pth.tar', weights_only=False)['saver']
    assert history['best_epoch'] == 0 and history['checkpoint_files'][0][0] == 'checkpoint-0.pth.tar'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '),
        TypeError('a defect'),
        KeyboardInterrupt(),
    ],
)
def test_only_what_it_can_explain(error, tmp_path, monkeypatch):
    """torch tells of a worker's end wherever the process is; what was begun is removed all the same."""
    one = saver(tmp_path)
    one.save_checkpoint(0, 1.0)
    before = names(tmp_path)

    def fail(state, path):
        Path(path).write_text('begun')
        raise error

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(type(error)) as raised:
        one.save_checkpoint(1, 2.0)
    assert raised.value is error and names(tmp_path) == before


@pytest.mark.parametrize(
    'name',
    [
        'tmp.pth.tar',
        'recovery_tmp.pth.tar',
        'last.pth.tar',
        'model_best.pth.tar',
        'checkpoint-0.pth.tar',
        'checkpoint-0.pth.tar.tmp',
        'model_best.pth.tar.tmp',
        'milestone-1.pth.tar',
        'recovery-0-0.pth.tar',
    ],
)
@pytest.mark.parametrize('exists', [True, False])
def test_nothing_is_written_through_a_link(name, exists, tmp_path):
    precious = tmp_path / 'precious'
    if exists:
        precious.write_text('precious')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / name).symlink_to(precious)
    one = saver(tmp_path / 'run')
    one.save_checkpoint(0, 1.0)
    one.save_milestone(1)
    one.save_recovery(0)
    assert names(tmp_path / 'run') == [
        f'{name}.pth.tar' for name in ('checkpoint-0', 'last', 'milestone-1', 'model_best', 'recovery-0-0')
    ]
    assert not any(path.is_symlink() for path in (tmp_path / 'run').iterdir())
    assert precious.read_text() == 'precious' if exists else not precious.exists()
