"""train.py under timm's sweep.py. No real sweep.py is at hand: a stand-in follows the protocol as it is known."""

import fcntl
import multiprocessing
import sys
import time
from pathlib import Path

import pytest
import yaml

import train
from keepaug import options
from keepaug.console.errors import explain_errors
from keepaug.files import locks
from tests.scripts import TINY, run_train, write_images

FORKED = multiprocessing.get_context('fork')


class Sweep:
    """What a sweep does with the files it names to its attempts."""

    def __init__(self, folder: Path):
        self.locks = [str(folder / 'sweep.lock'), str(folder / 'slot.lock')]
        self.live = folder / 'live'

    def start(self, attempt: str) -> list[str]:
        """Makes an attempt the live one, and gives the flags for it."""
        self.live.write_text(attempt)
        return ['--sweep-locks', *self.locks, '--sweep-attempt', str(self.live), attempt]

    def retire(self) -> None:
        self.live.write_text('')

    def is_held(self) -> bool:
        """Whether any process of an attempt is there still."""
        for path in self.locks:
            with open(path, 'a') as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        return False


@pytest.fixture
def sweep(tmp_path, monkeypatch) -> Sweep:
    """A sweep whose attempts in this process end with the test."""
    monkeypatch.setattr(train, '_sweep_lock_fds', [])
    yield Sweep(tmp_path)
    for descriptor in train._sweep_lock_fds:
        locks.close(descriptor)


def test_an_attempt_holds_its_locks(sweep):
    args, _ = train._parse_args([*sweep.start('a1'), '--lr', '0.5', '-c', str(write_yaml(sweep.live.parent))])
    assert len(train._sweep_lock_fds) == 2 and sweep.is_held()
    assert all(isinstance(descriptor, int) for descriptor in train._sweep_lock_fds)
    assert args.lr == 0.5 and args.epochs == 7


def write_yaml(folder: Path) -> Path:
    path = folder / 'defaults.yaml'
    path.write_text('epochs: 7')
    return path


def test_the_flags_are_in_no_arguments(sweep):
    flags = sweep.start('a1')
    plain, plain_text = train._parse_args(['--lr', '0.5'])
    args, text = train._parse_args(['--lr', '0.5', *flags])
    assert (vars(args), text) == (vars(plain), plain_text)
    defaults = vars(train.parser.parse_args([]))
    assert not [name for name in {**defaults, **yaml.safe_load(text)} if 'sweep' in name]
    assert defaults == vars(options.create_parser().parse_args([]))


def test_config_parser_reads_as_stocks():
    given, rest = train.config_parser.parse_known_args(['-c', 'a.yaml', 'data', '--lr', '1'])
    assert given.config == 'a.yaml' and rest == ['data', '--lr', '1']
    assert train.config_parser.parse_known_args([])[0].config == ''


@pytest.mark.parametrize('text, word', [('', 'retired'), ('\n', 'retired'), (None, 'retired'), ('a2', 'not the live')])
def test_an_attempt_that_is_not_wanted_ends(text, word, sweep):
    sweep.start('a1')
    sweep.live.unlink() if text is None else sweep.live.write_text(text)
    with pytest.raises(SystemExit, match=word):
        train._join_sweep_attempt(sweep.locks, str(sweep.live), 'a1')


def test_a_lock_that_cannot_be_had_ends_it_too(sweep, tmp_path):
    with pytest.raises(SystemExit, match='--sweep-locks .*nowhere/lock cannot be locked .No such file'):
        train._join_sweep_attempt([str(tmp_path / 'nowhere' / 'lock')], '', '')


@pytest.mark.xdist_group('processes')
def test_an_attempt_waits_for_a_sweep_that_decides(sweep):
    """It is retired while it waits."""
    sweep.start('a1')
    decides = FORKED.Event()
    attempt = FORKED.Process(target=_join, args=(sweep, decides))
    attempt.start()  # before the file is open here, for it would inherit that
    with open(sweep.locks[1], 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        decides.set()
        time.sleep(0.2)
        assert attempt.is_alive()
        sweep.retire()
    attempt.join()
    assert attempt.exitcode == 1


def _join(sweep: Sweep, decides) -> None:
    decides.wait()
    train._join_sweep_attempt(sweep.locks, str(sweep.live), 'a1')


@pytest.mark.xdist_group('processes')
def test_forked_processes_do_not_hold_them(sweep):
    train._parse_args(sweep.start('a1'))
    worker = FORKED.Process(target=time.sleep, args=(20,))
    worker.start()
    for descriptor in train._sweep_lock_fds:
        locks.close(descriptor)
    train._sweep_lock_fds.clear()
    deadline = time.monotonic() + 5
    while sweep.is_held():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.kill()
    worker.join()


@pytest.mark.xdist_group('processes')
def test_a_retired_attempt_reads_no_other_flag(sweep, tmp_path):
    flags = sweep.start('a1')
    sweep.retire()
    attempt = FORKED.Process(target=_run_script, args=([*flags, '--no-such-flag'], tmp_path / 'said'))
    attempt.start()
    attempt.join()
    assert attempt.exitcode == 1 and not sweep.is_held()
    assert (tmp_path / 'said').read_text() == f'The sweep has retired attempt a1: {sweep.live} names none.\n'


def _run_script(flags: list[str], said: Path) -> None:
    sys.argv, sys.stderr = ['train.py', *flags], open(said, 'w')
    explain_errors(train.main)


def test_the_next_step_is_not_of_the_attempt(sweep, tmp_path, caplog):
    caplog.set_level('INFO', logger='train')
    data = write_images(tmp_path / 'images')
    flags = ' '.join(sweep.start('a1'))
    run_train(f'{flags} {TINY} --data-dir {data} --epochs 1', tmp_path)
    (line,) = [message for message in caplog.messages if message.startswith('Train on: ')]
    assert 'sweep' not in line and f'--data-dir {data}' in line and '--resume' in line
