"""Files and folders that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from keepaug.files import drafts
from keepaug.files.outputs import check_output_folder, explained_output


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
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise ValueError(f'--output {path} is the checkpoint itself: choose another name.')
    if folder and os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ValueError(f'--output {path} exists: choose the name of a new folder.')
    if not folder and os.path.isdir(path):
        raise ValueError(f'--output {path} is a folder: choose the name of a file.')
    if not os.path.exists(path):
        check_output_folder(path, '--output')


@contextmanager
def whole_file(path: str) -> Iterator[str]:
    """`drafts.whole_file`, for the file that `--output` names, whose folders are made.

    Raises:
        ValueError: It cannot be written.
    """
    with _made_folders(path), drafts.whole_file(path, typed=True) as draft:
        yield draft


@contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """The same with a new folder.

    Raises:
        ValueError: It cannot be written.
    """
    with _made_folders(path), drafts.whole_folder(path) as draft:
        yield draft


@contextmanager
def _made_folders(path: str) -> Iterator[None]:
    with explained_output(path, '--output'):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        yield
