"""Weights & Biases: a missing package only warns; with it, a run and one log per summary row."""

import sys
from types import SimpleNamespace

import pytest
import timm.utils.summary

from tests.scripts import TINY, refuse_train, run_train


@pytest.fixture
def wandb(monkeypatch):
    calls = dict(init=[], log=[])
    module = SimpleNamespace(init=lambda **kwargs: calls['init'].append(kwargs), log=calls['log'].append)
    monkeypatch.setitem(sys.modules, 'wandb', module)
    monkeypatch.setattr(timm.utils.summary, 'wandb', module, raising=False)
    return calls


def test_missing_package_only_warns(data, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    run = run_train(f'{data} {TINY} --log-wandb --epochs 1', tmp_path)
    assert any('wandb' in message for message in caplog.messages)
    assert len((run / 'summary.csv').read_text().splitlines()) == 2


def test_run_is_logged(data, tmp_path, wandb):
    run_train(f'{data} {TINY} --log-wandb --wandb-project birds --wandb-tags a b', tmp_path, 'named')
    (started,) = wandb['init']
    assert (started['project'], started['name'], started['tags']) == ('birds', 'named', ['a', 'b'])
    assert started['resume'] is None and started['id'] is None and started['config']['epochs'] == 2
    assert [row['epoch'] for row in wandb['log']] == [0, 1]
    assert list(wandb['log'][0]) == ['epoch', 'train_loss', 'eval_loss', 'eval_top1', 'eval_top5', 'lr']


def test_a_run_goes_on_under_its_id(data, tmp_path, wandb, capsys):
    said = refuse_train(f'{data} {TINY} --log-wandb --wandb-resume-id x1', tmp_path, capsys)
    assert '--wandb-resume-id' in said and '--resume' in said
    run_train(f'{data} {TINY} --epochs 1', tmp_path)
    run_train(f'{data} {TINY} --log-wandb --resume auto --wandb-resume-id x1', tmp_path)
    assert (wandb['init'][-1]['id'], wandb['init'][-1]['resume']) == ('x1', 'must')
    assert [row['epoch'] for row in wandb['log']] == [1]


def test_a_run_may_begin_under_the_id_it_will_go_on_by(data, tmp_path, wandb):
    run_train(f'{data} {TINY} --epochs 1 --log-wandb --resume auto --wandb-resume-id x2', tmp_path, 'new')
    assert (wandb['init'][-1]['id'], wandb['init'][-1]['resume']) == ('x2', None)


def test_without_the_flag_nothing_is_started(data, tmp_path, wandb):
    run_train(f'{data} {TINY} --epochs 1', tmp_path)
    assert wandb == dict(init=[], log=[])
