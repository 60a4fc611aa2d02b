"""The live line: on a terminal only, above it the log as it is; elsewhere nothing but counting."""

import contextlib
import io
import json
import logging
import os
import pty
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

import validate
from keepaug.console import progress
from keepaug.console.progress import LiveProgress, Progress, open_progress
from tests.processes import PROCESSES, start
from tests.scripts import TINY, run_train

ESCAPE = re.compile(r'\x1b\[[\d;?]*[a-zA-Z]')
LONG = 'A line ' + 'of the log that is longer than the terminal is wide ' * 4 + 'and ends here.'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def log_on(stream):
    """The stream as stderr, and the log on it."""
    handler = logging.StreamHandler(stream)
    logging.root.addHandler(handler)
    try:
        with contextlib.redirect_stderr(stream):
            yield handler
    finally:
        logging.root.removeHandler(handler)


@pytest.fixture
def plain_environment(monkeypatch):
    for name in ('CI', 'NO_COLOR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TERM', 'xterm')


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when told."""
    now = [100.0]
    monkeypatch.setattr(progress, 'time', mock.Mock(perf_counter=lambda: now[0]))
    return now


def live(terminal: Terminal, **epochs) -> LiveProgress:
    return LiveProgress(Console(file=terminal, force_terminal=True, width=100), **epochs)


def test_images_per_second(clock):
    for subject in (Progress(), live(Terminal(), last_epoch=2)):
        assert subject.images_per_second == 0
        with subject.training(0, 2):
            subject.advance(30)
            clock[0] += 4
            subject.advance(30)
            clock[0] += 1
        assert subject.images_per_second == 12
        with subject.validating(1):
            subject.advance(1000)
        assert subject.images_per_second == 12, 'of training'


def test_line_tells_the_epoch_and_the_run(clock):
    terminal = Terminal()
    subject = live(terminal, first_epoch=2, last_epoch=5)
    with subject.training(2, 4):
        subject.show_loss(loss='1.5 (2.5)')
        clock[0] += 60
        subject.advance(120)
    shown = ESCAPE.sub('', terminal.getvalue())
    # A quarter of an epoch took a minute: 2.75 epochs are left.
    assert 'epoch 2/5 [1/4]' in shown and '2 images/s loss 1.5 (2.5)' in shown and 'run 0:11:00 left' in shown
    clock[0] += 60
    with subject.validating(2):
        subject.advance(10)
        clock[0] += 60
        subject.advance(10)
    assert 'validation [2/2]' in ESCAPE.sub('', terminal.getvalue())
    assert terminal.getvalue().endswith('\x1b[2K'), 'the line is wiped'


def test_log_scrolls_above_unbroken():
    terminal = Terminal()
    subject = live(terminal, last_epoch=1)
    with log_on(terminal) as handler:
        with subject.training(0, 2):
            logging.getLogger('train').warning(LONG)
            print('begun', end='', file=sys.stderr)
            subject.advance(1)
            print(' and ended', file=sys.stderr)
            print('cut off', end='', file=sys.stderr)
        assert handler.stream is terminal and sys.stderr is terminal
    lines = [ESCAPE.sub('', line).split('\r')[-1] for line in terminal.getvalue().split('\n')]
    assert LONG in lines and 'begun and ended' in lines and 'cut off' in lines


def test_terminal_is_given_back_after_an_error():
    terminal = Terminal()
    with log_on(terminal) as handler:
        with pytest.raises(RuntimeError), live(terminal, last_epoch=1).training(0, 2):
            raise RuntimeError
        assert handler.stream is terminal and sys.stderr is terminal
    assert terminal.getvalue().rindex('\x1b[?25h') > terminal.getvalue().rindex('\x1b[?25l'), 'the cursor is back'


def test_workers_write_past_the_line(monkeypatch):
    terminal = Terminal()
    above = progress.Above(terminal, Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(os, 'getpid', lambda: above.process + 1)
    print('of a worker', file=above)
    assert terminal.getvalue() == 'of a worker\n'


@pytest.mark.parametrize('case', ['pipe', 'TERM=dumb', 'NO_COLOR=1', 'CI=true', 'rank'])
def test_plain_where_no_line_belongs(case, plain_environment, monkeypatch):
    stream = io.StringIO() if case == 'pipe' else Terminal()
    if '=' in case:
        monkeypatch.setenv(*case.split('='))
    with contextlib.redirect_stderr(stream):
        assert type(open_progress(rank=int(case == 'rank'))) is Progress


def test_live_on_a_terminal(plain_environment):
    with contextlib.redirect_stderr(Terminal()):
        assert type(open_progress()) is LiveProgress


def test_both_scripts(data, tmp_path, plain_environment, capsys, caplog):
    terminal = Terminal()
    caplog.set_level('INFO')
    with log_on(terminal):
        run = run_train(f'{data} {TINY} --log-interval 1', tmp_path)
        flags = (
            f'{data} --model test_resnet --img-size 32 --num-classes 3 -b 8 -j 0 --device cpu '
            f'--checkpoint {run}/last.pth.tar --evaluate fgsm in-between risk'
        )
        with (
            mock.patch.object(sys, 'argv', ['validate.py', *flags.split()]),
            mock.patch.object(validate, 'setup_default_logging'),
        ):
            validate.main()
    assert capsys.readouterr().out.count('--result\n') == 2
    lines = [ESCAPE.sub('', line).split('\r')[-1] for line in terminal.getvalue().split('\n')]
    assert sum(line.startswith('Train: ') for line in lines) == 6
    assert sum(line.startswith('Test: ') for line in lines) == 7
    shown = ESCAPE.sub('', terminal.getvalue())
    assert 'epoch 1/2 [3/3]' in shown and 'validation [3/3]' in shown
    assert all(f'{title} [3/3]' in shown for title in ('fgsm', 'in-between', 'risk', 'risk, augmented'))


def _train_on_terminal(terminal: str, printed: Path, argv: list[str], opened) -> None:
    """A process of the script as a shell starts it: the terminal is its stderr, a file its stdout."""
    for name in ('CI', 'NO_COLOR'):
        os.environ.pop(name, None)
    os.environ['TERM'] = 'xterm'
    os.dup2(os.open(terminal, os.O_RDWR), 2)
    opened.set()
    sys.argv, sys.stdout, sys.stderr = argv, open(printed, 'w'), open(2, 'w', closefd=False)
    runpy.run_path(argv[0], run_name='__main__')


@pytest.mark.xdist_group('processes')
def test_on_a_pseudo_terminal(data, tmp_path):
    """The whole script, with a worker: log lines, live line, results on stdout alone."""
    master, slave = pty.openpty()
    script = str(Path(__file__).parents[2] / 'train.py')
    argv = [script, str(data), *TINY.split(), '-j', '1', '--epochs', '1', '--output', str(tmp_path)]
    opened = PROCESSES.Event()
    process = start(_train_on_terminal, os.ttyname(slave), tmp_path / 'printed', argv, opened)
    opened.wait()
    os.close(slave)
    said = b''
    with contextlib.suppress(OSError):  # what Linux gives at the end
        while part := os.read(master, 4096):
            said += part
    os.close(master)
    process.join()
    assert json.loads((tmp_path / 'printed').read_text().partition('--result\n')[2])
    assert process.exitcode == 0
    text = ESCAPE.sub('', said.decode())
    assert 'epoch 0/1 [3/3]' in text and re.search(r'(^|\r)Train: 0 \[   0/3 \( 33%\)\] .* Data: [\d. ()]+\r\n', text)
