"""What tests share."""

import gc
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # train.py and validate.py lie beside the package

# Small tensors are faster, and the golden numbers were measured, on one thread; so are the processes that tests start.
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leaves what is imported by now out of garbage collections, which would go through it each time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: 'pytest.TerminalReporter') -> None:
    """Names what was used, in -q too; the oldest pytest has no such name as the quoted one."""
    from keepaug.machine import describe_machine

    terminalreporter.write_line(f'Python {platform.python_version()}, {describe_machine()}')


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('needs CUDA, and none is here')


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extension modules take what is left at exit for leaks


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that changes the number of threads changes its own alone."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Iterator[Path]:
    """The image folder that `write_images` writes, made once for all processes of a session; no test changes it."""
    from tests.scripts import write_images

    session = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        session = session.parent
    folder = session / 'images'
    with FileLock(f'{folder}.lock'):
        if not folder.exists():
            write_images(folder)
    before = _contents(folder)
    yield folder
    assert _contents(folder) == before, f'A test changed {folder}, which all tests share.'


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}
