"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def unwritable(what: str, folder: str, reason: str) -> OSError:
    """Says of a run's folder that it cannot be written; how the run can go on is said by the last lines of the log."""
    if not os.path.isdir(folder):
        return OSError(f'{what} cannot be written: {folder} is gone, and with it what was saved there.')
    return OSError(
        f'{what} cannot be written ({reason}): make room or mend the folder; what was saved before stays whole.'
    )


@contextmanager
def whole_file(path: str | os.PathLike, typed: bool = False) -> Iterator[str]:
    """Gives a name beside `path` to write to; the file takes its own name when the block ends without an error.

    Killed or without room, what was there before stays whole.

    Args:
        path: The file.
        typed: Whether a user named it. Then a link stays one and leads to the file, and a device or a pipe, such as
            /dev/stdout, is written directly. At a name of ours a link, which may be another's trap, makes way.

    Raises:
        OSError: The file cannot be written.
    """
    path = os.path.abspath(path)
    if typed:
        if os.path.exists(path) and not os.path.isfile(path):
            if os.path.isdir(path):
                raise IsADirectoryError(None, 'it is a folder', path)
            yield path
            return
        path = os.path.realpath(path)
    with _renamed(path, remove_file) as draft:
        yield draft


@contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """The same with a new folder.

    Raises:
        OSError: The folder cannot be written.
    """
    with _renamed(os.path.abspath(path), lambda draft: shutil.rmtree(draft, ignore_errors=True)) as draft:
        os.mkdir(draft)
        yield draft


@contextmanager
def _renamed(path: str, remove: Callable[[str], None]) -> Iterator[str]:
    folder, name = os.path.split(path)
    stem, dot, suffix = name.partition('.')  # the suffix stays: writers look at it
    draft = os.path.join(folder, f'.{stem}-draft{dot}{suffix}')
    remove(draft)  # which a process that was killed may have left
    try:
        yield draft
        os.replace(draft, path)
    finally:
        remove(draft)


def remove_file(path: str) -> None:
    """Removes a file, or a link without what it leads to, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)
