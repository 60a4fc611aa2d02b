"""Files and folders that appear whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from keepaug.files import drafts


def check_output(path: str, source: str, folder: bool, suffix: str = '') -> None:
    """Says before the work that its result could not be written.

    Args:
        path: Value of `--output`.
        source: The checkpoint, which must stay.
        folder: Whether a folder is to be written.
        suffix: How the file's name must end.

    Raises:
        ValueError: Something else is at `path`, or the name would not be understood.
    """
    if not path.endswith(suffix):
        raise ValueError(f'--output {path} must end in {suffix}, by which readers know the format.')
    if os.path.exists(path) and os.path.samefile(path, source):
        raise ValueError(f'--output {path} is the checkpoint itself: choose another name.')
    if folder and os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ValueError(f'--output {path} exists: choose the name of a new folder.')
    if not folder and os.path.isdir(path):
        raise ValueError(f'--output {path} is a folder: choose the name of a file.')


@contextmanager
def whole_file(path: str) -> Iterator[str]:
    """`drafts.whole_file`, for the file that `--output` names, whose folders are made.

    Raises:
        ValueError: It cannot be written.
    """
    with _explained(path, partial(drafts.whole_file, typed=True)) as draft:
        yield draft


@contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """The same with a new folder.

    Raises:
        ValueError: It cannot be written.
    """
    with _explained(path, drafts.whole_folder) as draft:
        yield draft


@contextmanager
def _explained(path: str, write_whole: Callable[[str], AbstractContextManager[str]]) -> Iterator[str]:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with write_whole(path) as draft:
            yield draft
    except OSError as error:
        raise ValueError(f'--output {path} cannot be written ({error.strerror or error}): choose another.') from error
