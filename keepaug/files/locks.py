"""Locks that last as long as whoever holds them: a run its folder, an attempt of timm's `sweep.py` what that names.

Both are `flock`s, which the system takes back from a process that dies, however it dies. Forked processes inherit them
and here close them at once: a loader worker that is still there is not the run.
"""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager, suppress

_logger = logging.getLogger('train')

LOCK = 'run.lock'  # in the folder of a run, for as long as the run lasts
MOST_HOLDERS = 4  # in a sentence
MOST_BYTES = 2**16  # of the list of holders, which is for sentences alone

_descriptors: set[int] = set()  # of all locks of this process
_folders: dict[str, int] = {}  # descriptor by the path of its lock file


def hold_folder(folder: str, flag: str = '--experiment') -> None:
    """Keeps other runs out of a folder until `release_folders` or the end of the process.

    The lock is exclusive while it is taken and shared from then on, so that the other processes of the run can join.

    Args:
        folder: The folder.
        flag: What names another one, for the sentence.

    Raises:
        ValueError: Another run holds the folder.
        OSError: The folder cannot be written.
    """
    path = _lock_file(folder)
    if path in _folders:
        return
    while True:
        descriptor = _open_lock(path, os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(descriptor, path):  # the run that had it ended, and took the file away, in between
                close(descriptor)
                continue
            os.ftruncate(descriptor, 0)
            _sign(descriptor)
            # Not one step: who takes it in between signs anew.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if _holders(descriptor) != [_this_process()]:
                raise BlockingIOError
        except BlockingIOError as error:
            sentence = _in_use(folder, _holders(descriptor), flag)
            close(descriptor)
            raise ValueError(sentence) from error
        except OSError as error:
            with suppress(OSError):
                os.unlink(path)
            close(descriptor)
            _logger.warning(
                f'{folder} cannot be locked ({error.strerror}): nothing keeps another run from writing there too.'
            )
            return
        _folders[path] = descriptor
        return


def join_folder(folder: str) -> None:
    """Holds the folder beside the process of the same run that took it first; nothing where it could not be locked."""
    path = _lock_file(folder)
    if not os.path.exists(path):  # on another machine, perhaps, which does not see the folder
        return
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _sign(descriptor)
    except OSError:
        close(descriptor)
        return
    _folders[path] = descriptor


def release_folders() -> None:
    """Gives the folders back; the last process of a run takes the lock file away."""
    for path, descriptor in _folders.items():
        with suppress(OSError):  # others of the run hold it still, or the folder is gone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                os.unlink(path)
        close(descriptor)
    _folders.clear()


@contextmanager
def releasing_folders() -> Iterator[None]:
    """Gives back at its end, however it ends, what folders were taken."""
    try:
        yield
    finally:
        release_folders()


def join_sweep_attempt(paths: Sequence[str], file: str, attempt: str, held: MutableSequence[int]) -> None:
    """Holds a sweep's locks, shared, until the process exits, and ends it where the sweep no longer wants it.

    Args:
        paths: Files to lock. Waits for a sweep that is about to decide, which has them exclusively.
        file: Where the sweep has written which attempt is the live one; empty where the locks are all it asks for.
        attempt: The attempt that this process is.
        held: Takes up the descriptors of the locks.

    Raises:
        SystemExit: The attempt is retired, or another one is the live one; or a lock cannot be had.
    """
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | (0 if os.path.exists(path) else os.O_CREAT), 0o666)
            held.append(descriptor)
            _descriptors.add(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            raise SystemExit(
                f'--sweep-locks {path} cannot be locked ({error.strerror}): run the sweep in a folder that can.'
            ) from error
    if not file:
        return
    try:
        with open(file, encoding='utf-8') as live:
            named = live.read().strip()
    except (OSError, UnicodeDecodeError):  # the sweep took it away
        named = ''
    if not named:
        raise SystemExit(f'The sweep has retired attempt {attempt}: {file} names none.')
    if named != attempt:
        raise SystemExit(f'Attempt {attempt} is not the live one of its sweep: {file} names {named}.')


def close(descriptor: int) -> None:
    """Closes a descriptor of a lock, which ends the lock."""
    _descriptors.discard(descriptor)
    os.close(descriptor)


def _lock_file(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), LOCK)


def _open_lock(path: str, flags: int = 0) -> int:
    # Never through a link, for the file is written to.
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | flags, 0o666)
    _descriptors.add(descriptor)
    return descriptor


def _is_at(descriptor: int, path: str) -> bool:
    """Whether a path leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _sign(descriptor: int) -> None:
    """Adds this process to the list in a lock file."""
    host, process = _this_process()
    os.write(descriptor, f'{host} {process}\n'.encode())


def _holders(descriptor: int) -> list[tuple[str, int]]:
    """Who has signed a lock file: hosts and process numbers."""
    words = os.pread(descriptor, MOST_BYTES, 0).decode(errors='replace').split()
    return [(host, int(process)) for host, process in zip(words[::2], words[1::2]) if process.isdecimal()]


def _in_use(folder: str, holders: Sequence[tuple[str, int]], flag: str) -> str:
    here = socket.gethostname()
    living = [(host, process) for host, process in holders if host != here or _lives(process)] or holders
    named = ', '.join(f'process {process} on {host}' for host, process in living[:MOST_HOLDERS])
    if len(living) > MOST_HOLDERS:
        named += f' and {len(living) - MOST_HOLDERS} more'
    return (
        f'{folder} is in use by another run ({named or "just started"}): wait until it has ended or end it, or give '
        f'this one another {flag}.'
    )


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _close_in_fork() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _folders.clear()


os.register_at_fork(after_in_child=_close_in_fork)
