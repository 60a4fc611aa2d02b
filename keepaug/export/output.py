"""Files and folders that appear whole or not at all."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager


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
        raise ValueError(f'--output {path} must end in {suffix}: readers choose the format by it.')
    if os.path.exists(path) and os.path.samefile(path, source):
        raise ValueError(f'--output {path} is the checkpoint itself; choose another name.')
    if folder and os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise ValueError(f'--output {path} exists; choose the name of a new folder.')
    if not folder and os.path.isdir(path):
        raise ValueError(f'--output {path} is a folder; choose the name of a file.')


@contextmanager
def whole_file(path: str) -> Iterator[str]:
    """Gives a name beside `path` to write to; the file takes its own name when the block ends without an error.

    Raises:
        ValueError: It cannot be written.
    """
    with _renamed(path, lambda partial: os.path.exists(partial) and os.unlink(partial)) as partial:
        yield partial


@contextmanager
def whole_folder(path: str) -> Iterator[str]:
    """The same with a new folder.

    Raises:
        ValueError: It cannot be written.
    """
    with _renamed(path, lambda partial: shutil.rmtree(partial, ignore_errors=True)) as partial:
        os.mkdir(partial)
        yield partial


@contextmanager
def _renamed(path: str, remove) -> Iterator[str]:
    parent, name = os.path.split(os.path.abspath(path))
    stem, dot, suffix = name.partition('.')  # the suffix stays: writers look at it
    partial = os.path.join(parent, f'.{stem}-{os.getpid()}{dot}{suffix}')
    try:
        os.makedirs(parent, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f'--output {path} cannot be written ({error.strerror or error}); choose another.') from error
    finally:
        remove(partial)
