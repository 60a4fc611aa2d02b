"""Errors told in one sentence."""
import logging
import os
import signal
import sys
from collections.abc import Callable

import torch

from keepaug.console.interrupts import remembered_interrupts

_logger = logging.getLogger('train')

# Libraries list every tensor that does not fit; beyond this nobody reads on.
MOST_CHARACTERS = 300


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

    Builders raise `ValueError` and `OSError` for such things. A `RunFailed` is one sentence too, and exit status 1;
    anything else is a defect and keeps its traceback. Lines that an error has as `next_step` end the log. Ctrl-C where
    the script does not expect it is one line and the status that shells know it by.
    """
    try:
        with remembered_interrupts():
            main()
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        _leave(128 + signal.SIGINT)
    except Exception as error:
        next_step = getattr(error, 'next_step', None)
        mendable = isinstance(error, (ValueError, OSError))
        if mendable or isinstance(error, RunFailed):
            _tell(error)
        elif next_step is None:
            raise
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        for line in next_step or ():
            _logger.info(line)
        _leave(2 if mendable else 1)


def _tell(error: Exception) -> None:
    rank = os.environ.get('RANK', '')
    if isinstance(error, RunFailed) and rank not in ('', '0'):
        return  # the first process tells it for all
    where = f' [process {rank}]' if rank else ''
    print(f'{os.path.basename(sys.argv[0])}: error{where}: {_sentence(error)}', file=sys.stderr)


def _sentence(error: Exception) -> str:
    """The message, without the traceback that a loader worker puts before it."""
    text = str(error).strip()
    if 'Original Traceback' in text:
        text = text.splitlines()[-1].split(': ', 1)[-1]
    return text or type(error).__name__


def _leave(status: int) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Other processes wait in a collective that this one will never join: leave without waiting for them.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
