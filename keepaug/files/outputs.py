"""Files that a flag names: refused before the work where they could not be written, and written whole behind it."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from keepaug.files.drafts import whole_file

ANOTHER = 'name another place'
DRAFT = '.keepaug-'  # how the names of files begin that are there for a moment


def check_output_file(path: str, flag: str) -> None:
    """Says before the work that its result could not be written.

    Args:
        path: Where to; a device or a pipe, such as /dev/stdout, is taken as it is.
        flag: The flag that names it, or words that can stand for one.

    Raises:
        ValueError: It is a folder, or lies in one that is not there or cannot be written to.
    """
    if os.path.isdir(path):
        raise ValueError(f'{flag} {path} is a folder: name a file in it.')
    if os.path.exists(path) and not os.path.isfile(path):
        return
    folder, name = os.path.split(os.path.realpath(path))
    with explained_output(path, flag), tempfile.NamedTemporaryFile(dir=folder, prefix=f'{DRAFT}{name}'):
        pass


def check_output_folder(path: str, flag: str, way_out: str = ANOTHER) -> None:
    """Says before the work that nothing could be written to a folder, which need not be there yet.

    Args:
        path: The folder.
        flag: The flag that names it, or words that can stand for one.
        way_out: What to do then, as the end of a sentence.

    Raises:
        ValueError: A file stands there or above it, or it cannot be written to.
    """
    there = os.path.realpath(path)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    with explained_output(path, flag, way_out):
        if not os.path.isdir(there):
            raise NotADirectoryError(errno.ENOTDIR, f'{there} is no folder')
        with tempfile.NamedTemporaryFile(dir=there, prefix=DRAFT):
            pass


@contextmanager
def output_file(path: str, flag: str) -> Iterator[str]:
    """`whole_file` of a name that a user gave.

    Raises:
        ValueError: It cannot be written.
    """
    with explained_output(path, flag), whole_file(path, typed=True) as draft:
        yield draft


@contextmanager
def explained_output(path: str, flag: str, way_out: str = ANOTHER) -> Iterator[None]:
    """Turns what keeps the system from writing into a sentence that names the flag; arguments as above.

    Raises:
        ValueError: Something did.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(f'{flag} {path} cannot be written ({error.strerror or error}): {way_out}.') from error
