"""Processes that tests start. They begin with everything imported, and no other test's threads can disturb them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch.multiprocessing import start_processes

PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(['tests.scripts'])


def start(function: Callable[..., None], *args) -> multiprocessing.Process:
    """A process that runs a function, as one that a shell started would."""
    process = PROCESSES.Process(target=_as_first, args=(function, *args))
    process.start()
    return process


def _as_first(function: Callable[..., None], *args) -> None:
    multiprocessing.set_start_method('fork', force=True)  # of loader workers; else they come from a server of their own
    torch.set_num_threads(1)
    function(*args)


def free_ports(count: int) -> list[int]:
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(('127.0.0.1', 0))
        return [probe.getsockname()[1] for probe in sockets]


def run_together(count: int, function: Callable[..., None], *args) -> None:
    """Runs `function(rank, *args)` in several processes, in the environment that torchrun gives them.

    Raises:
        Exception: What one of them raised.
    """
    start_processes(_as_torchrun, (count, free_ports(1)[0], function, *args), count, start_method='forkserver')


def _as_torchrun(rank: int, count: int, port: int, function: Callable[..., None], *args) -> None:
    os.environ.update(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count)
    )
    _as_first(function, rank, *args)
