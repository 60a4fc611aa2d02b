"""Signals that ask a run to end: Ctrl-C, and SIGTERM of a scheduler or `docker stop`.

Ctrl-C raises `KeyboardInterrupt` at once, as ever. SIGTERM raises `Terminated`, which is one too: at once where nothing
is under way, and where the epochs of a run are, at the end of the batch that is. A second signal ends the process at
once.

Where no exception can pass on, as in the hooks around the fork of a loader worker, Python prints that it ignores the
exception and goes on. The signal is remembered and raised again where the next batch begins.
"""

import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from keepaug.console.processes import process_rank

# Seconds that the step under way has to end after SIGTERM. Schedulers kill after 30 and more, `docker stop` after 10.
PATIENCE = 20.0
# Signals within so many seconds are one wish that came on two ways, from a terminal and from a launcher.
TOGETHER = 1.0
# Seconds to wait for a process's own SIGTERM where its loader's workers, of the same group, had theirs.
OWN_SIGNAL = 1.0

# What reading the batch of a loader worker raises that has just ended, beside torch's own RuntimeError.
OF_LOST_WORKER = (ConnectionError, EOFError, FileNotFoundError)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


_process: int | None = None  # which handles signals
_received: int | None = None  # the first signal
_batches_end_first = False  # whether SIGTERM waits for the end of a batch
_child_handler = None  # torch's, which is set aside after SIGTERM
_acknowledged = threading.Event()  # the process knows of it and is about to end


@contextmanager
def handled_signals() -> Iterator[None]:
    """Handles Ctrl-C and SIGTERM as told above, unless whoever runs this handles or ignores them already."""
    global _child_handler, _process, _received
    # Scripts leave Ctrl-C to the system while they import, and again when they end: it ends them without a word.
    free = {signal.SIGINT: (signal.default_int_handler, signal.SIG_DFL), signal.SIGTERM: (signal.SIG_DFL,)}
    handlers = {number: signal.getsignal(number) for number in free}
    ours = [number for number, handler in handlers.items() if handler in free[number]]
    if threading.current_thread() is not threading.main_thread() or not ours or os.name != 'posix':
        yield
        return
    _process = os.getpid()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python's handlers wait for the main thread, which may be in a call that does not end; this pipe does not.
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch_over, args=(reader, ours), daemon=True).start()
    for number in ours:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number])
        if _child_handler is not None:
            signal.signal(signal.SIGCHLD, _child_handler)
        signal.set_wakeup_fd(before)
        os.close(writer)
        _child_handler = _process = _received = None
        _acknowledged.clear()


@contextmanager
def waiting_for_batches() -> Iterator[None]:
    """Lets SIGTERM wait for the end of a batch; what it breaks first, in loader workers or other processes, is it too.

    Raises:
        Terminated: SIGTERM was received.
    """
    global _batches_end_first
    _batches_end_first = True
    try:
        yield
    except (RuntimeError, *OF_LOST_WORKER) as error:
        if isinstance(error, OF_LOST_WORKER) or 'DataLoader worker' in str(error):
            _await_own_signal()
        if _received == signal.SIGTERM:
            _acknowledged.set()
            raise Terminated from error
        raise
    finally:
        _batches_end_first = False


def raise_pending_signal() -> None:
    """Raises the signal that `handled_signals` received, if it has not been raised yet or its exception was lost.

    To be called before a batch. Of several processes only the first one stops at SIGTERM: the others take part in its
    steps until it has left.

    Raises:
        KeyboardInterrupt: Ctrl-C was received.
        Terminated: SIGTERM was received.
    """
    if _received == signal.SIGINT:
        raise KeyboardInterrupt
    if _received == signal.SIGTERM and process_rank() == 0:
        _acknowledged.set()
        raise Terminated


def received_signal() -> int | None:
    """The number of the first signal that was received in `handled_signals`."""
    return _received


def leave_at_once(status: int) -> None:
    """Ends the process without waiting for anything, and the loader workers with it."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _handle(number: int, frame: FrameType | None) -> None:
    global _child_handler, _received
    if os.getpid() != _process:  # a loader worker, before it has handlers of its own
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.raise_signal(number)
        return
    if _received is not None:
        return
    _received = number
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    # torch would raise wherever the process is that a worker is gone, which the same signal may have ended.
    _child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not _batches_end_first:
        _acknowledged.set()
        raise Terminated


def _watch_over(reader: int, numbers: list[int]) -> None:
    """Ends the process where it does not end itself in time, and at a second signal."""
    first = deadline = None
    while True:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], patience)[0]:
            if not _acknowledged.is_set():
                os.write(2, f'SIGTERM: the current step did not end within {PATIENCE:g} s.\n'.encode())
                leave_at_once(128 + signal.SIGTERM)
            deadline = None
            continue
        received = os.read(reader, 64)
        if not received:
            os.close(reader)
            return
        for number in received:
            if number not in numbers:
                continue
            now = time.monotonic()
            if first is None:
                first = now
                deadline = now + PATIENCE if number == signal.SIGTERM else None
            elif now - first > TOGETHER:
                leave_at_once(128 + number)


def _await_own_signal() -> None:
    end = time.monotonic() + OWN_SIGNAL
    while _received is None and time.monotonic() < end:
        time.sleep(0.05)


def _leave_pipe_to_parent() -> None:
    if _process is not None:
        signal.set_wakeup_fd(-1)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_leave_pipe_to_parent)
