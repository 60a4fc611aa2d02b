"""SIGTERM ends a run as Ctrl-C does, with status 143: nothing is lost or left behind, nobody waits for ever."""

import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from keepaug.console import errors, interrupts
from keepaug.training import loop
from tests.processes import PROCESSES, free_ports
from tests.scripts import TINY, run_train

TERMINATED = 128 + signal.SIGTERM

pytestmark = pytest.mark.xdist_group('processes')


def _begin(said: Path, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.setpgrp()
    os.environ.update(environment)
    for stream, suffix in ((sys.stdout, '.out'), (sys.stderr, '.err')):
        with open(said.with_suffix(suffix), 'wb') as file:
            os.dup2(file.fileno(), stream.fileno())
        stream.reconfigure(line_buffering=True)
    logging.basicConfig(stream=sys.stderr, level='INFO', format='%(message)s')


def _train(said: Path, environment: dict[str, str], flags: str, output: Path) -> None:
    """A run whose updates take a while, each told once it is made."""
    _begin(said, environment)
    mean_lr = loop.mean_lr
    loop.mean_lr = lambda optimizer: (time.sleep(0.3), mean_lr(optimizer))[1]
    interrupts.PATIENCE = float(environment.get('PATIENCE', 20.0))
    multiprocessing.set_start_method('fork', force=True)  # of loader workers: the fastest
    errors.explain_errors(lambda: run_train(f'{TINY} --epochs 30 --log-interval 1 {flags}', output))


class Run:
    """A process, or several of one run."""

    def __init__(self, folder: Path, target: Callable, *arguments, processes: int = 1, patience: float = 20.0):
        (port,) = free_ports(1)
        self.said, self.processes = [folder / f'rank{rank}' for rank in range(processes)], []
        for rank, said in enumerate(self.said):
            environment = (
                {}
                if processes == 1
                else dict(
                    PATIENCE=str(patience),
                    MASTER_ADDR='127.0.0.1',
                    MASTER_PORT=str(port),
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(processes),
                )
            )
            self.processes.append(PROCESSES.Process(target=target, args=(said, environment, *arguments)))
        for process in self.processes:
            process.start()

    def wait_for(self, text: str, rank: int = 0) -> None:
        end = time.time() + 180
        while text not in self.log(rank):
            assert time.time() < end and self.processes[rank].is_alive(), self.log(rank)
            time.sleep(0.02)

    def log(self, rank: int = 0) -> str:
        path = self.said[rank].with_suffix('.err')
        return path.read_text() if path.exists() else ''

    def results(self) -> list[dict]:
        return json.loads(self.said[0].with_suffix('.out').read_text().partition('--result\n')[2])

    def send(self, number: int, ranks: Sequence[int] = (0,), send: Callable = os.kill) -> None:
        for rank in ranks:
            send(self.processes[rank].pid, number)

    def statuses(self, seconds: float = 30.0) -> list[int]:
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


@pytest.fixture
def start(tmp_path):
    runs = []

    def start(*arguments, **settings) -> Run:
        runs.append(Run(tmp_path, *arguments, **settings))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def children(pid: int) -> set[int]:
    return set(map(int, Path(f'/proc/{pid}/task/{pid}/children').read_text().split()))


def gone(pids: set[int]) -> bool:
    end = time.time() + 10
    while any(Path(f'/proc/{pid}').exists() for pid in pids) and time.time() < end:
        time.sleep(0.05)
    return not any(Path(f'/proc/{pid}').exists() for pid in pids)


@pytest.mark.parametrize(
    'flags, send, recovery',
    [
        ('--recovery-interval 100 -j 1', os.kill, True),
        (
            '--recovery-interval 100 -j 1',
            os.killpg,
            True,
        ),  # as a launcher sends it, and a scheduler: workers get it too
        ('', os.kill, False),
        ('--recovery-interval 100 --exact-resume', os.kill, False),
    ],
)
def test_a_run_ends_in_order(flags, send, recovery, start, data, tmp_path):
    run = start(_train, f'{data} {flags}', tmp_path)
    run.wait_for('Train: 1 [   0/3')
    workers = children(run.processes[0].pid)
    run.send(signal.SIGTERM, send=send)
    assert run.statuses() == [TERMINATED]
    log = run.log()
    assert 'Traceback' not in log and 'Ended by SIGTERM. Saved files are kept.' in log
    assert log.splitlines()[-1].startswith('Resume: ') and [result['epoch'] for result in run.results()] == [0]
    assert gone(workers) and bool(workers) == ('-j 1' in flags)
    files = {path.name for path in (tmp_path / 'run').glob('recovery*')}
    assert len(files) == recovery and 'Train: 1 [   2/3' not in log
    if recovery:
        (name,) = files
        held = torch.load(tmp_path / 'run' / name, weights_only=False)
        assert held['epoch'] == 1 and 'metric' not in held and f'{name}. A run resumed from it' in log


def test_first_process_saves_and_the_others_leave(start, data, tmp_path):
    run = start(_train, f'{data} --recovery-interval 100', tmp_path, processes=2)
    run.wait_for('Train: 0 [   0/')
    run.send(signal.SIGTERM, (1, 0))  # the other one first
    assert run.statuses() == [TERMINATED] * 2
    assert list((tmp_path / 'run').glob('recovery-0-*'))
    assert not any('Traceback' in run.log(rank) for rank in (0, 1))


def test_where_one_process_ends_the_others_say_so(start, data, tmp_path):
    run = start(_train, str(data), tmp_path, processes=2)
    run.wait_for('Train: 0 [   0/')
    run.send(signal.SIGKILL, (1,))
    assert run.statuses() == [1, -signal.SIGKILL]
    assert 'Traceback' not in run.log()
    (said,) = [line for line in run.log().splitlines() if 'error [process 0]' in line]
    assert 'The exchange with the other processes failed (' in said and 'has ended' in said
    assert run.log().splitlines()[-1] == 'This run has written no checkpoint.'


def test_a_process_that_waits_for_another_does_not_wait_for_ever(start, data, tmp_path):
    run = start(_train, str(data), tmp_path, processes=2, patience=2.0)
    run.wait_for('Train: 0 [   0/')
    run.send(signal.SIGSTOP)
    time.sleep(0.5)  # in which the other comes to wait for it
    run.send(signal.SIGTERM, (1,))
    run.processes[1].join(20)
    assert run.processes[1].exitcode == TERMINATED
    assert run.log(1).splitlines()[-1] == 'SIGTERM: the current step did not end within 2 s.'


def _wait(said: Path, environment: dict[str, str]) -> None:
    def main() -> None:
        try:
            print('waits', file=sys.stderr)
            time.sleep(60)
        except KeyboardInterrupt:
            print('ends slowly', file=sys.stderr)
            time.sleep(60)

    _begin(said, environment)
    errors.explain_errors(main)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number, start):
    run = start(_wait)
    run.wait_for('waits')
    run.send(number)
    run.wait_for('ends slowly')
    run.send(number)  # the same wish, come on another way
    time.sleep(interrupts.TOGETHER + 0.2)
    assert run.processes[0].is_alive()
    run.send(number)
    assert run.statuses(5) == [128 + number]
