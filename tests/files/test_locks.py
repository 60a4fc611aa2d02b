"""A folder belongs to one run at a time, for as long as any process of the run lives and no longer."""

import errno
import fcntl
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from keepaug.files import locks
from tests.scripts import TINY, refuse_train, run_train, write_images

FORKED = multiprocessing.get_context('fork')

pytestmark = pytest.mark.xdist_group('processes')


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    yield
    locks.release_folders()


class Other:
    """Another process: does something, tells how it ended, and stays until it is killed."""

    def __init__(self, act: Callable, *args):
        ours, theirs = FORKED.Pipe()
        self.process = FORKED.Process(target=self._run, args=(theirs, act, args), daemon=True)
        self.process.start()
        assert ours.poll(20), 'it hangs'
        self.said = ours.recv()
        self.connection = ours

    @staticmethod
    def _run(connection, act: Callable, args: tuple) -> None:
        try:
            act(*args)
            connection.send('')
        except ValueError as error:
            connection.send(str(error))
        connection.recv()
        locks.release_folders()

    def end(self) -> None:
        """Lets it give back what it holds."""
        self.connection.send(None)
        self.process.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def __str__(self) -> str:
        return f'process {self.process.pid} on {os.uname().nodename}'


def _hold_and_fork(folder: str) -> None:
    """Holds a folder and leaves a child that outlives this process."""
    locks.hold_folder(folder)
    if os.fork() == 0:
        time.sleep(5)
        os._exit(0)


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path)


def test_a_second_run_is_refused(folder):
    holder = Other(locks.hold_folder, folder)
    assert holder.said == ''
    with pytest.raises(ValueError, match=f'{folder} is in use by another run .{holder}.: wait until it has ended'):
        locks.hold_folder(folder)
    holder.kill()
    locks.hold_folder(folder)
    locks.hold_folder(folder)  # its own already
    locks.release_folders()
    assert os.listdir(folder) == []


def test_forked_processes_do_not_hold_it(folder):
    holder = Other(_hold_and_fork, folder)
    holder.kill()
    locks.hold_folder(folder)


def test_surviving_processes_of_a_run_show(folder):
    ranks = [Other(locks.hold_folder, folder), Other(locks.join_folder, folder), Other(locks.join_folder, folder)]
    ranks.pop(0).kill()
    with pytest.raises(ValueError, match=rf'another run \({ranks[0]}, {ranks[1]}\)'):
        locks.hold_folder(folder)
    ranks.pop(0).kill()
    with pytest.raises(ValueError, match=rf'another run \({ranks[0]}\)'):
        locks.hold_folder(folder)
    ranks.pop(0).kill()
    locks.hold_folder(folder)


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0)])
def test_the_last_process_takes_the_file_away(order, folder):
    ranks = [Other(locks.hold_folder, folder), Other(locks.join_folder, folder), Other(locks.join_folder, folder)]
    for number in order:
        assert os.listdir(folder) == [locks.LOCK]
        ranks[number].end()
    assert os.listdir(folder) == []


def _take_turns(folder: str, start, results) -> None:
    """Takes the folder many times, and looks each time whether it is alone."""
    start.wait()
    alone, taken = True, 0
    guard = os.path.join(folder, 'guard')
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            locks.hold_folder(folder)
        except ValueError:
            continue
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
            os.unlink(guard)
        except FileExistsError:
            alone = False
        taken += 1
        locks.release_folders()
    results.put((alone, taken))


def test_no_two_have_it_at_once(folder):
    """Nor where one takes the file away while another opens it."""
    start, results = FORKED.Event(), FORKED.Queue()
    processes = [FORKED.Process(target=_take_turns, args=(folder, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    told = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert all(alone for alone, _ in told)
    assert sum(taken for _, taken in told) > 20


def test_a_file_system_without_locks_is_a_warning(folder, monkeypatch, caplog):
    def refuse(descriptor, kind):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    locks.hold_folder(folder)
    locks.join_folder(folder)
    assert f'{folder} cannot be locked (No locks available): nothing keeps another run' in caplog.text
    assert os.listdir(folder) == []


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / 'precious').write_text('precious')
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / locks.LOCK).symlink_to(tmp_path / 'precious')
    with pytest.raises(OSError):
        locks.hold_folder(str(tmp_path / 'run'))
    assert (tmp_path / 'precious').read_text() == 'precious'


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


def test_a_run_leaves_another_runs_folder_alone(data, tmp_path, capsys):
    """Refused before anything is read or written; once the other is killed, the folder is free."""
    run = run_train(f'{data} {TINY}', tmp_path)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert locks.LOCK not in before
    holder = Other(locks.hold_folder, str(run))
    said = refuse_train(f'{data} {TINY} --epochs 3 --resume auto', tmp_path, capsys)
    assert f'train.py: error: {run} is in use by another run ({holder}): wait' in said
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != locks.LOCK} == before
    holder.kill()
    assert (run / locks.LOCK).exists()
    run_train(f'{data} {TINY} --epochs 3 --resume auto', tmp_path)
    assert not (run / locks.LOCK).exists()


def test_a_run_that_fails_gives_its_folder_back(data, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        assert (tmp_path / 'run' / locks.LOCK).exists()
        raise RuntimeError('broken')

    monkeypatch.setattr('keepaug.training.train_one_epoch', fail)
    with pytest.raises(RuntimeError, match='broken'):
        run_train(f'{data} {TINY}', tmp_path)
    assert not (tmp_path / 'run' / locks.LOCK).exists()
    Other(locks.hold_folder, str(tmp_path / 'run')).kill()


def test_unnamed_runs_of_one_second_have_folders_of_their_own(data, tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls):
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr('keepaug.record.run_folder.datetime', Stopped)
    for _ in range(2):
        run_train(f'{data} {TINY} --epochs 1', tmp_path, '')
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        '20260102-030405-test_resnet-32',
        '20260102-030405-test_resnet-32-1',
    ]
