"""What is finished is saved first, and a run that is resumed tells what the one before it could not."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keepaug.training
from keepaug.console.errors import explain_errors
from keepaug.measuring.risks import TrainingRisks
from keepaug.record.recorder import Recorder
from keepaug.record.summary import Summary
from keepaug.training import Phases, Ranking
from tests.scripts import TINY, await_next_second, run_train


class Journal:
    """Stands for all that a recorder calls, and notes in which order."""

    names = ('risk_augmented',)
    columns = ()
    best_metric = row = None

    def __init__(self):
        self.calls = []

    def save_checkpoint(self, epoch, metric, row):
        self.calls.append('checkpoint')
        assert row == {'epoch': 2, 'train_loss': 1.0, 'eval_top1': 50.0, 'lr': 0.1, 'phase': 'augmented'}

    def save_milestone(self, completed):
        self.calls.append(f'milestone {completed}')

    def write(self, row, scalars=None, pictures=None):
        self.calls.append(f'write {list(row)[5:]} {scalars or ""}')

    def measure(self, *args):
        self.calls.append('measure')
        return ({'kept': 0.5}, {}) if args == (2,) else {'risk_augmented': 2.0}


def test_what_cannot_be_had_again_comes_first():
    journal = Journal()
    recorder = Recorder(
        journal, journal, [journal], Ranking('top1'), Phases(5), [3], risks=journal, watch=journal, task=None
    )
    recorder.record(2, {'loss': 1.0}, {'top1': 50.0}, 50.0, lr=0.1)
    assert journal.calls == [
        'checkpoint',
        'milestone 3',
        'write [] ',
        'measure',
        "write ['risk_augmented'] ",
        'measure',
        "write ['risk_augmented'] {'kept': 0.5}",
    ]


@pytest.mark.parametrize('dies, at, rows', [('Summary.write', 5, 2), ('TrainingRisks.measure', 3, 3)])
def test_a_resumed_run_completes_the_file(dies, at, rows, data, tmp_path, monkeypatch):
    """Whatever was told of an epoch when the run died; the risks are those of the epoch's own augmentation."""
    flags = (
        f'{data} {TINY} --exact-resume --epochs 3 --refine-epochs 1 --refine-fade 1 --risk-samples 8 --reprob 0.5 '
        '--log-tensorboard --watch-samples 8'
    )
    whole = run_train(flags, tmp_path, 'whole')
    owner, name = dies.split('.')
    owner, calls = {'Summary': Summary, 'TrainingRisks': TrainingRisks}[owner], []
    inner = getattr(owner, name)

    def die(*args, **kwargs):
        calls.append(None)
        if len(calls) == at:  # in epoch 2, whose augmentation fades
            raise KeyboardInterrupt
        return inner(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        run = run_train(flags, tmp_path)
    assert torch.load(run / 'last.pth.tar', weights_only=False)['epoch'] == 2
    assert len(Summary(str(run / 'summary.csv')).rows()) == rows
    await_next_second()
    run_train(f'{flags} --resume auto', tmp_path)
    assert (run / 'summary.csv').read_text() == (whole / 'summary.csv').read_text()
    events = EventAccumulator(str(run)).Reload()
    for name in ('train_loss', 'risk_clean', 'clean_train_top1'):
        assert [event.step for event in events.Scalars(name)] == [0, 1, 2, 3]


def test_nothing_is_told_twice(data, tmp_path, monkeypatch):
    flags = f'{data} {TINY} --risk-samples 8'
    run_train(f'{flags} --stop-epoch 1', tmp_path)
    calls, measure = [], TrainingRisks.measure
    monkeypatch.setattr(TrainingRisks, 'measure', lambda *args: (calls.append(None), measure(*args))[1])
    run_train(f'{flags} --resume auto', tmp_path)
    assert len(calls) == 1, 'of the second epoch'


def nan_from(epoch: int):
    """A loop that trains, and then has no numbers any more."""

    def train_one_epoch(number, task, loader, *args, **kwargs):
        if number >= epoch:
            with torch.no_grad():
                next(task.get_trainable_module().parameters()).fill_(math.nan)
        return keepaug.training.loop.train_one_epoch(number, task, loader, *args, **kwargs)

    return train_one_epoch


@pytest.mark.parametrize('epoch, left', [(2, 'checkpoint-1'), (0, '')])
def test_a_run_without_numbers_ends(epoch, left, data, tmp_path, monkeypatch, caplog, capsys):
    caplog.set_level('INFO', logger='train')
    monkeypatch.setattr('keepaug.training.train_one_epoch', nan_from(epoch))
    with pytest.raises(SystemExit) as leave:
        explain_errors(lambda: run_train(f'{data} {TINY} --epochs 4', tmp_path))
    assert leave.value.code == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert f'not finite in any batch of epoch {epoch}' in said and '--lr' in said
    if left:
        assert caplog.messages[-1].startswith(f'Last good checkpoint: {tmp_path}/run/last.pth.tar')
        assert 'Best checkpoint' in caplog.text and 'Resume: ' not in caplog.text
    else:
        assert caplog.messages[-1] == 'No epoch ended with a finite loss, so there is no checkpoint to continue from.'


def test_an_epoch_that_loses_its_numbers_ranks_last(data, tmp_path, monkeypatch, caplog, capsys):
    """Its accuracy is a number all the same: that of the first class."""

    def no_numbers(args, task, *rest):
        return {'loss': math.nan, 'top1': 1000.0, 'top5': 1000.0} if len(calls) == 1 else evaluate(args, task, *rest)

    calls, evaluate = [], keepaug.training.evaluate
    monkeypatch.setattr('keepaug.training.evaluate', lambda *args: (no_numbers(*args), calls.append(None))[0])
    capsys.readouterr()
    run = run_train(f'{data} {TINY} --epochs 3', tmp_path)
    assert 'The loss or the metric of epoch 1 is not finite' in caplog.text
    history = torch.load(run / 'last.pth.tar', weights_only=False)['saver']
    assert history['best_epoch'] != 1 and history['best_metric'] < 1000
    text = capsys.readouterr().out.partition('--result\n')[2]
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    assert results[0]['epoch'] == 1 and results[0]['validation']['loss'] is None


def test_a_run_of_which_nothing_is_finite_is_no_success(data, tmp_path, monkeypatch, caplog):
    caplog.set_level('INFO')
    evaluate = keepaug.training.evaluate
    monkeypatch.setattr('keepaug.training.evaluate', lambda *args: evaluate(*args) | {'loss': math.nan})
    with pytest.raises(SystemExit) as leave:
        run_train(f'{data} {TINY} --epochs 1', tmp_path)
    assert leave.value.code == 1
    assert caplog.messages[-1] == 'No epoch ended with a finite loss, so there is no checkpoint to continue from.'
