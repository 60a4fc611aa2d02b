"""The last lines of a log: true, and commands that do what they say when they are pasted."""

import contextlib
import io
import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

import keepaug.data.sets
import train
import validate
from keepaug import next_step, options
from keepaug.console.errors import explain_errors
from keepaug.export.command import main as export
from keepaug.options.argv import stock_first
from tests.readers import create_several_labels
from tests.scripts import TINY, run_train, write_images

ROOT = Path(__file__).parents[1]
# Flags of a run, the format that its model is exported to, and a word that the command of validation must hold.
RUNS = {
    'plain': ('--keep-cut --keep-size 8', 'detectron2-timm', '--num-classes'),
    'average': ('--model-ema --early-exit --mean 0.4 0.5 0.6', 'detectron2-timm', '--use-ema'),
    'resnet': ('--model resnet18 --model-kwargs zero_init_last=False', 'detectron2', '--model-kwargs'),
    'cifar': ('--model cifar_resnet18 --crop-pct 1', 'safetensors', '--crop-pct'),
    'sizes': ('--model test_resnet --train-img-sizes 32 64 --in-chans 1', 'detectron2-timm', '--in-chans'),
    'test-size': ('--model resnet18d', 'detectron2-timm', '--use-train-size'),
    'naflex': (
        '--model test_vit --model-kwargs use_naflex=True --naflex-loader --naflex-train-seq-lens 4 '
        '--naflex-max-seq-len 4',
        'safetensors',
        '--naflex-loader',
    ),
    'several-labels': ('--task multilabel --dataset hfds/fixture', 'detectron2-timm', '--task'),
    'embedded': (
        '--dataset keepaug/cluttered-digits --num-classes 10 --train-num-samples 16 --val-num-samples 20 '
        '--model test_resnet',
        'detectron2-timm',
        '--num-samples',
    ),
    'config': ('--config {config}', 'detectron2-timm', '--gp'),
    'loss': ("--val-split ''", 'detectron2-timm', None),
    'split-norm': ('--aug-splits 2 --split-bn', 'detectron2-timm', None),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('im ages'))


@pytest.fixture
def log(caplog):
    caplog.set_level('INFO', logger='train')
    return caplog


def told(caplog) -> dict[str, str]:
    """The last lines by what they begin with."""
    lines = [
        line
        for line in caplog.messages
        if line.startswith(('Best checkpoint', 'Validate it', 'Export it', 'Resume', 'Train on', 'This run'))
    ]
    assert caplog.messages[-len(lines) :] == lines, 'they are the last'
    return dict(line.split(': ', 1) for line in lines)


def paste(command: str, more: str = '') -> None:
    """Runs a command of the log in this process."""
    words = shlex.split(f'{command} {more}')
    assert words[0] == 'python'
    if words[1:3] == ['-m', 'keepaug.export']:
        export(words[3:])
        return
    script = {'train.py': train, 'validate.py': validate}[words[1]]
    with mock.patch.object(sys, 'argv', words[1:]), mock.patch.object(script, 'setup_default_logging'):
        script.main()


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=() if name in ('plain', 'average', 'naflex', 'loss') else pytest.mark.slow)
        for name in RUNS
    ],
)
def test_commands_work(name, data, tmp_path, log, capsys, monkeypatch):
    if name == 'several-labels':
        monkeypatch.setattr(keepaug.data.sets, 'create_dataset', create_several_labels)
    flags, form, word = RUNS[name]
    (tmp_path / 'gp.yaml').write_text('gp: max\nlr: 0.01\n')
    root = '' if '--dataset' in flags else shlex.quote(str(data))
    run = run_train(f'{root} {TINY} --epochs 1 {flags.format(config=tmp_path / "gp.yaml")}', tmp_path, 'my run')
    lines = told(log)
    best, _, metric = lines['Best checkpoint'].partition(' (')
    assert best == f'{run}/model_best.pth.tar' and metric.endswith(', epoch 0)')

    assert ('Validate it' in lines) == (word is not None)
    if word is not None:
        assert word in shlex.split(lines['Validate it'])
        capsys.readouterr()
        paste(lines['Validate it'])
        judged = json.loads(capsys.readouterr().out.partition('--result\n')[2])
        which, value = metric.split(', ')[0].split()
        assert judged[which] == pytest.approx(float(value), abs=0.05), 'as the run itself did'
    assert shlex.split(lines['Export it'])[3] == form
    paste(lines['Export it'])
    log.clear()
    paste(lines['Train on'])
    assert torch.load(run / 'last.pth.tar', weights_only=False)['epoch'] == 1
    again = told(log)
    assert again['Train on'].count('--resume') == 1
    if form.startswith('detectron2'):
        assert shlex.split(again['Export it'])[-1].endswith(f'{form}-{again["Best checkpoint"].split()[-1][:-1]}')


def fail(at_epoch: int, error: BaseException):
    """`train_one_epoch`, which fails in an epoch."""

    def train_or_fail(epoch, *args, **kwargs):
        if epoch == at_epoch:
            raise error
        return keepaug.training.loop.train_one_epoch(epoch, *args, **kwargs)

    return mock.patch('keepaug.training.train_one_epoch', train_or_fail)


FAILURES = {
    'memory': (torch.OutOfMemoryError('CUDA out of memory'), 1, 'torch.OutOfMemoryError: CUDA out of memory'),
    'defect': (AssertionError('a defect'), 1, 'AssertionError: a defect'),
    'disk': (OSError('No checkpoint could be written'), 2, 'error: No checkpoint could be written'),
}


@pytest.mark.parametrize('name', FAILURES)
@pytest.mark.parametrize('epoch', [0, 1])
def test_after_a_failure(name, epoch, data, tmp_path, log, capsys):
    error, status, said = FAILURES[name]
    run_train(f'"{data}" {TINY} --epochs 1', tmp_path)  # what an earlier run left in the folder is not this one's
    log.clear()
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger('train').addHandler(handler)
    try:
        with fail(epoch, error), pytest.raises(SystemExit) as leave:
            explain_errors(lambda: run_train(f'"{data}" {TINY}', tmp_path))
    finally:
        logging.getLogger('train').removeHandler(handler)
    assert leave.value.code == status
    after = capsys.readouterr().err.partition(f'{said}\n')[2].splitlines()
    if epoch == 0:
        assert after == ['This run has written no checkpoint.']
        return
    lines = told(log)
    assert after == [f'{name}: {line}' for name, line in lines.items()]
    assert list(lines) == ['Best checkpoint', 'Validate it', 'Export it', 'Resume']
    paste(lines['Resume'])
    assert torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)['epoch'] == 1


def test_a_full_disk(data, tmp_path, log):
    """The real way of it: the second checkpoint cannot be written, the first one is told."""
    save, calls = torch.save, []

    def full(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise OSError(28, 'No space left on device')
        save(*args, **kwargs)

    with mock.patch.object(torch, 'save', full), pytest.raises(SystemExit):
        explain_errors(lambda: run_train(f'"{data}" {TINY}', tmp_path))
    lines = told(log)
    assert lines['Best checkpoint'].endswith('epoch 0)')
    paste(lines['Resume'])


def test_after_ctrl_c(data, tmp_path, log, capsys):
    with fail(1, KeyboardInterrupt()):
        run_train(f'"{data}" {TINY}', tmp_path)
    assert list(told(log)) == ['Best checkpoint', 'Validate it', 'Export it', 'Resume']
    assert json.loads(capsys.readouterr().out.partition('--result\n')[2])


def test_before_a_checkpoint_the_one_resumed_from_stays(data, tmp_path, log):
    first = run_train(f'"{data}" {TINY} --epochs 1', tmp_path, 'first')
    log.clear()
    with fail(1, KeyboardInterrupt()):
        run_train(f'"{data}" {TINY} --resume {first}/last.pth.tar', tmp_path, 'second')
    assert log.messages[-2] == 'This run has written no checkpoint.'
    assert log.messages[-1].endswith(f' --resume {first}/last.pth.tar') and log.messages[-1].count('--resume') == 1


def test_a_recovery_file_serves_where_there_is_no_other(data, tmp_path, log):
    with mock.patch.object(keepaug.training.loop, 'mean_lr', side_effect=[0.05, KeyboardInterrupt]):
        run = run_train(f'"{data}" {TINY} --recovery-interval 1 --log-interval 1', tmp_path)
    assert log.messages[-1].endswith(f'--resume {run}/recovery-0-0.pth.tar')


@pytest.mark.parametrize(
    'flags, more',
    [
        ('--epochs 1', '--epochs 2'),
        ('--epochs 2 --stop-epoch 1', '--stop-epoch 2'),
        ('--epochs 1 --stop-epoch 1', '--epochs 2 --stop-epoch 2'),
        ('--epochs 1 --refine-epochs 1 --stop-epoch 1', '--stop-epoch 2'),
        ('--config {config}', '--stop-epoch 2'),
        ('--config {config} --epochs 1', '--epochs 2 --stop-epoch 2'),
    ],
)
def test_trained_on(flags, more, data, tmp_path, log):
    (tmp_path / 'one.yaml').write_text('epochs: 2\nstop_epoch: 1\n')
    tiny = TINY.replace('--epochs 2', '')
    run = run_train(f'"{data}" {tiny} --exact-resume {flags.format(config=tmp_path / "one.yaml")}', tmp_path)
    command = told(log)['Train on']
    assert f' {more} --resume {run}/last.pth.tar' in command
    paste(command)
    assert torch.load(run / 'last.pth.tar', weights_only=False)['epoch'] == 1


def test_a_run_without_a_name_goes_on_in_its_folder(data, tmp_path, log):
    paste(f'python train.py {shlex.quote(str(data))} {TINY} --epochs 1 --output "{tmp_path}"')
    (run,) = tmp_path.iterdir()
    command = told(log)['Train on']
    log.clear()
    paste(command)
    assert list(tmp_path.iterdir()) == [run] and len((run / 'summary.csv').read_text().splitlines()) == 3
    assert told(log)['Train on'].count('--experiment') == 1


@pytest.mark.parametrize('flags, more', [('', '--epochs'), ('--stop-epoch 1', '--stop-epoch')])
def test_nothing_to_do(flags, more, data, tmp_path, log):
    command = f'"{data}" {TINY} --epochs {1 if more == "--epochs" else 2} {flags}'
    run_train(command, tmp_path)
    log.clear()
    run_train(f'{command} --resume auto', tmp_path)
    assert f'Nothing to do: 1 epochs are done and the run ends after 1. Raise {more} to train more.' in log.messages
    assert f' {more} 2 --resume ' in log.messages[-1]


def test_commands_follow_the_results(data, tmp_path, log):
    """On a terminal, where both streams meet; of stdout alone the results are the last, and read while it is open."""
    both = io.StringIO()
    handler = logging.StreamHandler(both)
    logging.getLogger('train').addHandler(handler)
    try:
        with contextlib.redirect_stdout(both):
            run_train(f'"{data}" {TINY} --epochs 1', tmp_path)
    finally:
        logging.getLogger('train').removeHandler(handler)
    results, _, commands = both.getvalue().partition('--result\n')[2].partition('\n]\n')
    assert json.loads(f'{results}]')
    assert [line.partition(':')[0] for line in commands.splitlines()] == [
        'Best checkpoint',
        'Validate it',
        'Export it',
        'Train on',
    ]


def test_exact_resumption_takes_no_recovery_file(data, tmp_path, log):
    with mock.patch.object(keepaug.training.loop, 'mean_lr', side_effect=[0.05, KeyboardInterrupt]):
        run_train(f'"{data}" {TINY} --exact-resume --recovery-interval 1 --log-interval 1', tmp_path)
    assert log.messages[-1] == 'This run has written no checkpoint.'


@pytest.mark.parametrize(
    'typed, kept',
    [
        ('data --resume a.pth -b 8', 'data -b 8'),
        ('data --resume=a.pth -b 8', 'data -b 8'),
        ('data --resu a.pth -b 8', 'data -b 8'),
        ('--start-epoch 3 --no-resume-opt --resplit data', '--resplit data'),
        ('--resume auto --experiment e -- --resume', '--experiment e -- --resume'),
        ('--wandb-resume-id x --model resume', '--wandb-resume-id x --model resume'),
        ('data --resume', 'data'),
    ],
)
def test_command_line_without_what_is_of_one_start(typed, kept):
    reader = stock_first(options.create_parser())
    assert reader.without(typed.split(), *next_step.RESUME_FLAGS) == kept.split()


@pytest.mark.parametrize(
    'script, environment, command',
    [
        ('train.py', {}, 'python train.py'),
        ('./train.py', {}, 'python train.py'),
        ('/my code/train.py', {}, "python '/my code/train.py'"),
        ('/opt/bin/keepaug-train', {}, 'keepaug-train'),
        (str(ROOT / 'keepaug' / 'train.py'), {}, 'keepaug-train'),
        (
            str(ROOT / 'keepaug' / 'train.py'),
            dict(LOCAL_WORLD_SIZE='2', GROUP_WORLD_SIZE='1'),
            'torchrun --nproc_per_node=2 -m keepaug.train',
        ),
        ('./train.py', dict(LOCAL_WORLD_SIZE='2', GROUP_WORLD_SIZE='1'), './distributed_train.sh 2'),
        (
            'code/train.py',
            dict(LOCAL_WORLD_SIZE='4', GROUP_WORLD_SIZE='2', GROUP_RANK='1', MASTER_ADDR='host0', MASTER_PORT='29500'),
            'PET_NNODES=2 PET_NODE_RANK=1 PET_MASTER_ADDR=host0 PET_MASTER_PORT=29500 code/distributed_train.sh 4',
        ),
    ],
)
def test_launched_as_before(script, environment, command, monkeypatch):
    monkeypatch.setattr(sys, 'argv', [script])
    for name, value in {**environment, **({'TORCHELASTIC_RUN_ID': 'none'} if environment else {})}.items():
        monkeypatch.setenv(name, value)
    assert ' '.join(next_step._launcher()) == command


@pytest.mark.slow
@pytest.mark.parametrize('launcher', ['python train.py', './distributed_train.sh 2'])
def test_in_a_shell(launcher, data, tmp_path):
    environment = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'OMP_NUM_THREADS': '1',
        'PYTHON': sys.executable,
    }

    def shell(command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ['bash', '-c', command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )

    run = shell(f'{launcher} {shlex.quote(str(data))} {TINY} --output {shlex.quote(str(tmp_path))} --epochs 1')
    *_, best, validated, exported, resumed = run.stderr.strip().splitlines()
    assert best.startswith('Best checkpoint: ')
    assert '--result' in shell(validated.removeprefix('Validate it: ')).stdout
    shell(exported.removeprefix('Export it: '))
    command = resumed.removeprefix('Train on: ')
    assert command.startswith(launcher)
    assert '"epoch": 1' in shell(command).stdout
