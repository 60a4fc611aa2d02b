"""Ctrl-C that is not lost.

Where no exception can pass on, as in the hooks around the fork of a loader worker, Python prints that it ignores the
`KeyboardInterrupt` and goes on. Here it is remembered too, and raised again where the next batch begins.
"""
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_received = False


@contextmanager
def remembered_interrupts() -> Iterator[None]:
    """Remembers Ctrl-C, which raises `KeyboardInterrupt` as ever; whoever handles or ignores it already, keeps it."""
    global _received
    of_python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not of_python or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _received = False


def _remember(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    signal.default_int_handler(number, frame)


def raise_lost_interrupt() -> None:
    """Raises the `KeyboardInterrupt` that was received in `remembered_interrupts`, if there was one."""
    if _received:
        raise KeyboardInterrupt
