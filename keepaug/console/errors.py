"""Errors told in one sentence."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import torch

from keepaug.console.interrupts import handled_signals, leave_at_once, received_signal
from keepaug.console.loader_errors import explain_loader
from keepaug.console.processes import is_distributed
from keepaug.installation import program

_logger = logging.getLogger('train')

# Libraries list every tensor that does not fit; beyond this nobody reads on.
MOST_CHARACTERS = 300
# What a user can mend, as builders raise it.
MENDABLE = (ValueError, OSError)
# In every message of the library that exchanges tensors between processors; it has no type of error of its own.
GLOO = 'gloo/transport'


class RunFailed(Exception):
    """A run that cannot go on, told in one sentence by the first process; all processes of the run end with it."""


def first_line(error: Exception) -> str:
    """What an error of another library says first, fit to stand inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(':') and len(lines) > 1:  # a heading; what it announces comes next
        lines[0] += ' ' + lines[1].strip()
    line = lines[0].rstrip(' :.')
    return line if len(line) <= MOST_CHARACTERS else line[:MOST_CHARACTERS].rstrip(' ,') + ' ...'


def explain_errors(main: Callable[[], object]) -> None:
    """Runs a script's main function and turns what its user can mend into one sentence and exit status 2.

    Builders raise `ValueError` and `OSError` for such things, and torch says by a `RuntimeError` that loader workers
    ended. A `RunFailed` is one sentence too, and exit status 1; so is an exchange with a process that is gone; anything
    else is a defect and keeps its traceback. Lines that an error has as `next_step` end the log. Ctrl-C and SIGTERM
    where the script does not expect them are one line and the status that shells know them by; after SIGTERM it is that
    one in any case.
    """
    with handled_signals():
        try:
            main()
        except KeyboardInterrupt:
            _say('Interrupted.')
            _leave(128 + (received_signal() or signal.SIGINT))
        except Exception as error:
            of_loader = explain_loader(error)
            sentence = of_loader or _explain(error)
            if sentence is not None:
                _print(error, sentence)
            elif not hasattr(error, 'next_step'):
                raise
            else:
                sys.excepthook(type(error), error, error.__traceback__)
            for line in getattr(error, 'next_step', ()):
                _logger.info(line)
            # Loader workers that these hold end at once; where the interpreter finds them they take five seconds.
            traceback.clear_frames(error.__traceback__)
            _leave(2 if of_loader or isinstance(error, MENDABLE) else 1)
        if received_signal() == signal.SIGTERM:
            _leave(128 + signal.SIGTERM)
        if received_signal() is not None and is_distributed():
            _leave(0)


def _explain(error: Exception) -> str | None:
    """The sentence that says what an error is; None for a defect."""
    if isinstance(error, (*MENDABLE, RunFailed)):
        return _sentence(error)
    if not (is_distributed() and (isinstance(error, torch.distributed.DistError) or GLOO in str(error))):
        return None
    reason = first_line(error).split('] ', 1)[-1].split('. ', 1)[0]  # without the place in the library, and advice
    return (
        f'The exchange with the other processes failed ({reason}), as it does when one of them has ended: see what '
        'that process said.'
    )


def _print(error: Exception, sentence: str) -> None:
    rank = os.environ.get('RANK', '')
    if isinstance(error, RunFailed) and rank not in ('', '0'):
        return  # the first process tells it for all
    where = f' [process {rank}]' if rank else ''
    _say(f'{program()}: error{where}: {sentence}')


def _say(line: str) -> None:
    """Writes a line to standard error, where there is one that can be written."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    """The message, without the traceback that a loader worker puts before it."""
    text = str(error).strip()
    if 'Original Traceback' in text:
        text = text.splitlines()[-1].split(': ', 1)[-1]
    return text or type(error).__name__


def _leave(status: int) -> None:
    if is_distributed():
        # Other processes wait in a collective that this one will never join: leave without waiting for them.
        _flush()
        leave_at_once(status)
    _flush()
    sys.exit(status)


def _flush() -> None:
    """Writes out what was said; nothing of it is left to fail, and to change the status, where nobody reads it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), open(os.devnull, 'wb') as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
