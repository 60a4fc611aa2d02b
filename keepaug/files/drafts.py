"""Files that are written whole or not at all."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager


def unwritable(what: str, folder: str, reason: str) -> OSError:
    """Says of a run's folder that it cannot be written; how the run can go on is said by the last lines of the log."""
    if not os.path.isdir(folder):
        return OSError(f'{what} cannot be written: {folder} is gone, and with it what was saved there.')
    return OSError(
        f'{what} cannot be written ({reason}): make room or mend the folder; what was saved before stays whole.')


@contextmanager
def draft_of(path: str) -> Iterator[str]:
    """A copy of a file to write to, which takes its place in one step: killed or without room, the file stays whole."""
    draft = f'{path}.tmp'
    try:
        if os.path.exists(path):
            shutil.copyfile(path, draft)
        elif os.path.exists(draft):  # left by a run that was killed
            os.unlink(draft)
        yield draft
        if os.path.exists(draft):
            os.replace(draft, path)
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
