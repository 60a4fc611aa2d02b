"""What ends loader workers or keeps them from their work, in one sentence.

torch raises it as a `RuntimeError` wherever the main process is at that moment, so that whoever catches errors there
may have explained it as something else; therefore what an error followed from is looked at too.
"""

import re
from collections.abc import Iterator

ENDED = re.compile(
    r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)'
)
NO_ROOM = re.compile(r'unable to \w+ .*(?:shared memory|shm|/torch_).*: ([\w ]+) \(\d+\)')
TOO_MANY = re.compile(r'Too many open files|items of ancdata')


def explain_loader(error: BaseException) -> str:
    """A sentence for an error that a loader worker's end, or its lack of room, led to; empty for any other."""
    origins = list(_origins(error))
    for each in origins:
        if isinstance(each, OSError) and _place(each) == 'multiprocessing.synchronize':  # semaphores lie there too
            return _no_room(each.strerror or str(each))
    texts = [str(each) for each in origins if isinstance(each, RuntimeError)]
    if any(map(TOO_MANY.search, texts)):
        return 'Loader workers have too many open files: raise the limit (ulimit -n) or give fewer workers with -j.'
    for match in filter(None, map(NO_ROOM.search, texts)):
        return _no_room(match[1])
    ends = list(filter(None, map(ENDED.search, texts)))
    if not ends:
        return ''
    workers, by_signal = next(((end[1], end[2]) for end in ends if end[2]), (ends[0][1], ''))
    if by_signal == 'Bus error':
        return _no_room(by_signal)
    if by_signal == 'Killed':
        return (
            f'Loader worker {workers} was killed, most likely because memory ran out: use fewer workers with -j, '
            'smaller batches, or more memory.'
        )
    if by_signal:
        return f'Loader worker {workers} was ended by a signal ({by_signal}): -j 0 shows what it was doing.'
    return (
        f'Loader worker {workers} ended unexpectedly: -j 0 shows what it was doing; if memory ran out, give fewer '
        'workers with -j or smaller batches.'
    )


def _no_room(reason: str) -> str:
    return (
        f'Loader workers have no room in shared memory for their batches ({reason}): give it more (/dev/shm; in a '
        'container --shm-size), or fewer workers with -j, or smaller batches.'
    )


def _origins(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it followed from."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """The module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return '' if trace is None else trace.tb_frame.f_globals.get('__name__', '')
