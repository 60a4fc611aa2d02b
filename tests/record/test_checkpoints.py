"""Checkpoints go both ways, survive a resume, and are read without trusting them."""

import csv
import pickle
import shutil

import pytest
import timm
import torch
from timm.models import load_state_dict
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import CheckpointSaver

from keepaug.files.checkpoints import check_checkpoint
from tests.scripts import TINY, refuse_train, run_train


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """A run of two epochs with keep-cut and EMA."""
    return run_train(
        f'{data} {TINY} --keep-cut --keep-size 8 --model-ema --model-ema-decay 0.5', tmp_path_factory.mktemp('run')
    )


def test_loads_strictly_in_timm(finished):
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=finished / 'last.pth.tar')
    saved = torch.load(finished / 'last.pth.tar', weights_only=False)['state_dict_ema']  # timm's factory prefers EMA
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_averages_and_cleans_as_stocks_do(finished):
    """What timm's scripts do to checkpoints: read the weights, average them, load the average."""
    states = [load_state_dict(finished / f'checkpoint-{epoch}.pth.tar', use_ema=False) for epoch in (0, 1)]
    mean = {
        name: (states[0][name].double() + states[1][name].double()).div(2).to(states[0][name].dtype)
        for name in states[0]
    }
    timm.create_model('test_resnet', num_classes=3).load_state_dict(mean, strict=True)


def test_resume_continues_the_same_folder(finished, data, tmp_path):
    """One more epoch: one header in the summary, history and best metric kept."""
    shutil.copytree(finished, tmp_path / 'run')
    run_train(
        f'{data} {TINY} --keep-cut --keep-size 8 --model-ema --model-ema-decay 0.5 --epochs 3 '
        f'--resume {tmp_path}/run/last.pth.tar',
        tmp_path,
    )
    with open(tmp_path / 'run' / 'summary.csv') as file:
        assert [row['epoch'] for row in csv.DictReader(file)] == ['0', '1', '2']
    history = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)['saver']['checkpoint_files']
    assert {name for name, _ in history} <= {f'checkpoint-{epoch}.pth.tar' for epoch in range(3)}
    assert len(history) == 2


def test_stock_checkpoint_resumes_here(data, tmp_path):
    """Weights, momentum, averages and epoch of a checkpoint written by timm's saver are taken up."""
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3)
    task = ClassificationTask(model, verbose=False)
    optimizer = create_optimizer_v2(model, opt='sgd', lr=0.05, momentum=0.9, weight_decay=2e-5)
    task.setup_ema(decay=0.9)
    task(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))['loss'].backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group['initial_lr'] = 0.05
    saver = CheckpointSaver(model, optimizer, task=task, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, 50.0)
    # At learning rate 0, with nothing left to average, an epoch changes batch norm statistics only.
    run = run_train(
        f'{data} {TINY} --sched none --resume {tmp_path}/last.pth.tar --model-ema --model-ema-decay 1.0 '
        '--no-aug --momentum 0.5',
        tmp_path,
    )
    saved = torch.load(run / 'last.pth.tar', weights_only=False)
    assert saved['epoch'] == 1
    assert saved['optimizer']['param_groups'][0]['momentum'] == 0.9  # the file's, not the flag's
    stock = torch.load(tmp_path / 'last.pth.tar', weights_only=False)
    for name, tensor in stock['state_dict_ema'].items():
        if 'running' not in name and 'num_batches' not in name:
            assert torch.equal(saved['state_dict_ema'][name], tensor), name


class _Bomb:
    """Code that a checkpoint would run if it were unpickled."""

    def __reduce__(self):
        import os

        return os.mkdir, ('exploded',)


def _truncate(path, source):
    path.write_bytes(source.read_bytes()[:2000])


def _explode(path, source):
    torch.save({'state_dict': {}, 'args': _Bomb()}, path)


def _explode_in_plain_pickle(path, source):
    path.write_bytes(pickle.dumps({'state_dict': _Bomb()}, protocol=2))


def _text(path, source):
    path.write_text('not a checkpoint')


def _bare_tensor(path, source):
    torch.save(torch.zeros(3), path)


def _other_model(path, source):
    torch.save({'state_dict': timm.create_model('test_vit', num_classes=3).state_dict()}, path)


@pytest.mark.parametrize('damage', [_truncate, _explode, _explode_in_plain_pickle, _text, _bare_tensor, _other_model])
@pytest.mark.parametrize('flag', ['--resume', '--initial-checkpoint'])
def test_unusable_checkpoint_is_one_sentence(damage, flag, finished, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'bad.pth.tar'
    damage(path, finished / 'last.pth.tar')
    said = refuse_train(f'{data} {TINY} {flag} {path}', tmp_path, capsys)
    assert flag in said and str(path) in said
    assert not (tmp_path / 'exploded').exists()
    assert not (tmp_path / 'run').exists()  # nothing was written on the way


@pytest.mark.parametrize(
    'error, reason',
    [
        (OSError(28, 'No space left on device'), None),
        (OSError(122, 'Disk quota exceeded'), None),
        (None, 'unexpected pos 64 vs 0'),
    ],
)
def test_the_reason_is_the_systems_where_there_is_one(error, reason, data, tmp_path, capsys, monkeypatch, caplog):
    """torch's writer tells of positions in its archive; and where nothing was saved there is nothing to resume."""

    def fails(state, path):
        open(path, 'wb').write(b'half')
        raise RuntimeError('[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0')

    def refuses(file):
        if error is not None:
            raise error

    caplog.set_level('INFO', logger='train')
    monkeypatch.setattr('timm.utils.checkpoint_saver.torch.save', fails)
    monkeypatch.setattr('os.fsync', refuses)
    said = refuse_train(f'{data} {TINY} --epochs 1', tmp_path, capsys)
    assert (reason or f'({error.strerror})') in said and '--resume' not in said
    assert ('inline_container' in said) == (error is None)
    assert caplog.messages[-1] == 'This run has written no checkpoint.'
    assert not list((tmp_path / 'run').glob('*tmp*'))


def test_a_damaged_last_checkpoint_has_one_beside_it(finished, data, tmp_path, capsys):
    """Names of one file, as the newest two are, are damaged alike."""
    shutil.copytree(finished, tmp_path / 'run')
    for name in ('last', 'checkpoint-1'):
        path = tmp_path / 'run' / f'{name}.pth.tar'
        path.unlink()
        path.write_bytes((finished / f'{name}.pth.tar').read_bytes()[:-1000])
    said = refuse_train(f'{data} {TINY} --resume auto', tmp_path, capsys)
    assert f'--resume {tmp_path}/run/last.pth.tar cannot be read' in said
    assert f'{tmp_path}/run/checkpoint-0.pth.tar beside it is whole' in said


def test_a_checkpoint_damaged_within_is_not_called_whole(finished, tmp_path):
    shutil.copytree(finished, tmp_path / 'run')
    path = tmp_path / 'run' / 'checkpoint-1.pth.tar'
    held = bytearray(path.read_bytes())
    held[:1000] = bytes(1000)  # a zip archive is known by its end
    path.unlink()
    path.write_bytes(held)
    with pytest.raises(ValueError, match='checkpoint-0.pth.tar beside it is whole'):
        check_checkpoint(str(path), '--resume')


@pytest.mark.parametrize(
    'left, flags, start, resume',
    [
        (('last', 'checkpoint-0', 'checkpoint-1'), '', 0, 'last'),
        (('checkpoint-0', 'checkpoint-1', 'checkpoint-best'), '--resume auto', 0, 'checkpoint-1'),
        (('last', 'checkpoint-0'), '--resume {finished}/last.pth.tar', 2, 'last'),
        ((), '--resume auto', 0, None),
        (('last', 'checkpoint-0'), '--resume auto', 2, None),
        (('last', 'checkpoint-0'), '--resume {run}/checkpoint-0.pth.tar', 2, None),
    ],
)
def test_a_run_that_is_overwritten_is_named(left, flags, start, resume, finished, data, tmp_path, caplog):
    run = tmp_path / 'run'
    run.mkdir()
    for name in left:
        shutil.copy(finished / 'last.pth.tar', run / f'{name}.pth.tar')
    (run / 'summary.csv').write_text('epoch,train_loss\n0,1.\n1,1.\n2,1.\n')
    caplog.set_level('INFO')
    run_train(f'{data} {TINY} --model-ema {flags.format(run=run, finished=finished)}', tmp_path)
    warned = [record.message for record in caplog.records if 'overwrites' in record.message]
    assert len(warned) == (resume is not None)
    if resume:
        assert f'{run} holds another run' in warned[0] and f'--resume {run}/{resume}.pth.tar' in warned[0]
    dropped = [message for message in caplog.messages if message.startswith('Dropping')]
    assert len(dropped) == 1
    assert dropped[0].startswith(f'Dropping {3 - start} rows at or after epoch {start} from {run}/summary.csv')


def test_failed_write_keeps_the_last_good_checkpoint(data, tmp_path, capsys, monkeypatch):
    """A full disk ends the run in a sentence; what was saved before stays whole."""
    run = run_train(f'{data} {TINY} --epochs 1', tmp_path)
    before = (run / 'last.pth.tar').read_bytes()

    def fails(state, path):
        open(path, 'wb').write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('timm.utils.checkpoint_saver.torch.save', fails)
    said = refuse_train(f'{data} {TINY} --resume {run}/last.pth.tar', tmp_path, capsys)
    assert 'No space left on device' in said
    assert (run / 'last.pth.tar').read_bytes() == before
    assert not list(run.glob('tmp*'))
