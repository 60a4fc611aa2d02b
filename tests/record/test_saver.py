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
        model, torch.optim.SGD(model.parameters()), checkpoint_dir=str(folder), recovery_dir=str(folder), **settings)


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
    one.load_state_dict(dict(
        checkpoint_files=[('checkpoint-0.pth.tar', math.nan), ('checkpoint-1.pth.tar', 0.7)], best_epoch=0,
        best_metric=math.nan, pending=(2, 0.6)))
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
