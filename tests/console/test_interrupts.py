"""Ctrl-C ends a script in one line before its epochs, and within them as stock does, whenever it comes."""

import contextlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from timm.task.evaluator import ClassificationEvaluator

from keepaug.console.errors import explain_errors
from keepaug.console.interrupts import handled_signals
from keepaug.evaluation.data import PassSettings
from keepaug.training.forward import Forward
from keepaug.training.validation_pass import validate
from tests.conftest import ROOT
from tests.scripts import TINY, run_train

pytestmark = pytest.mark.xdist_group('signals')


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C as in a terminal, wherever the tests run: what a shell starts in its background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


class Deaf:
    """Presses Ctrl-C where Python lets no exception pass."""

    def __del__(self):
        press()


@pytest.mark.parametrize(
    'at', ['data.check_data_folder', 'training.build_model', 'record.build_saver', 'record.recorder.print_results']
)
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_outside_the_epochs_it_is_one_line(number, at, data, tmp_path, capsys):
    with mock.patch(f'keepaug.{at}', lambda *args: press(number)), pytest.raises(SystemExit) as leave:
        explain_errors(lambda: run_train(f'{data} {TINY} --epochs 1', tmp_path))
    assert leave.value.code == 128 + number
    assert capsys.readouterr().err == 'Interrupted.\n'
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize('number, status', [(signal.SIGINT, None), (signal.SIGTERM, 143)])
def test_a_script_that_ends_in_order_has_its_status(number, status):
    """That of SIGTERM tells a scheduler that the work is not done; Ctrl-C keeps stock's."""

    def main() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            press(number)

    with pytest.raises(SystemExit) if status else contextlib.nullcontext() as leave:
        explain_errors(main)
    assert status is None or leave.value.code == status


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
    'at, trained, done', [('data.set_epoch', 0, 0), ('training.evaluate', 1, 0), ('record.recorder.name_metrics', 1, 1)]
)
def test_it_is_not_lost(at, trained, done, data, tmp_path, caplog, capsys):
    """Nothing more is trained, and what is done is printed."""
    right = pkgutil.resolve_name(f'keepaug.{at}')

    def pressed(*args, **kwargs):
        with mock.patch('sys.unraisablehook'):
            Deaf()
        return right(*args, **kwargs)

    caplog.set_level('INFO', logger='train')
    with mock.patch(f'keepaug.{at}', pressed):
        explain_errors(lambda: run_train(f'{data} {TINY} --log-tensorboard --watch-samples 0', tmp_path))
    assert 'Interrupted. Saved files are kept.' in caplog.text
    assert len(set(re.findall(r'Train: (\d+)', caplog.text))) == trained
    assert capsys.readouterr().out.count('"epoch"') == done


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
    'follow',
    [
        lambda batches: validate(torch.nn.Flatten(), batches, ClassificationEvaluator(), Forward()),
        lambda batches: list(PassSettings().follow(batches, len(batches), 'fgsm')),
    ],
)
def test_nor_is_it_in_a_validation(follow):
    class Pressed(list):
        def __iter__(self):
            with mock.patch('sys.unraisablehook'):
                Deaf()
            return super().__iter__()

    with pytest.raises(KeyboardInterrupt), handled_signals():
        follow(Pressed([(torch.rand(2, 3, 1, 1), torch.tensor([0, 1]))]))


def test_a_signal_that_is_ignored_stays_so():
    """As of a script in a shell's background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    explain_errors(press)


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_while_a_script_imports_it_ends_without_a_word(script):
    process = subprocess.Popen(
        [sys.executable, ROOT / script, '--help'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # Python itself has begun where it has mapped its first extension of torch; its imports are under way for seconds.
    while process.poll() is None and 'torch' not in Path(f'/proc/{process.pid}/maps').read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b'', b'')
    assert process.returncode == -signal.SIGINT


def test_a_second_one_at_the_end_is_left_to_the_system():
    """After `main` nothing of ours is under way that another Ctrl-C must not end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with pytest.raises(SystemExit) as leave:
        explain_errors(press)
    assert leave.value.code == 130 and signal.getsignal(signal.SIGINT) is signal.SIG_DFL


class Gone:
    """A stream whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, 'Broken pipe')

    def flush(self) -> None:
        raise BrokenPipeError(32, 'Broken pipe')

    def fileno(self) -> int:
        raise ValueError('no descriptor')


@pytest.mark.parametrize('stream', [None, Gone()])
@pytest.mark.parametrize('error, status', [(KeyboardInterrupt(), 130), (ValueError('Wrong.'), 2)])
def test_the_status_does_not_need_standard_error(error, status, stream, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', stream)

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as leave:
        explain_errors(main)
    assert leave.value.code == status and capsys.readouterr().out == ''
