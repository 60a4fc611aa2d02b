"""Runs that are killed, at every file operation and at random moments, end as the run that nothing happened to."""

import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest

from keepaug.console.errors import explain_errors
from tests.processes import start
from tests.scripts import TINY, run_train
from tests.test_exact_resume import assert_same_run

pytestmark = pytest.mark.xdist_group('processes')

FILE_OPERATIONS = ('open', 'os.rename', 'os.link', 'os.remove', 'os.truncate', 'shutil.copyfile')
FLAGS = f'{TINY} --epochs 4 --aa rand-m9-mstd0.5 --mixup 0.2 --keep-cut --keep-size 8 --exact-resume --resume auto'
# History and best checkpoint change, there are milestones, and the plateau counts.
BUSY = '--model-ema --checkpoint-hist 2 --save-epochs 2 --sched plateau --patience-epochs 0 --eval-metric loss'
SETTINGS = {
    'busy': BUSY,
    'workers': f'{BUSY} -j 2 --recovery-interval 1',
    'refined': '--refine-epochs 1 --refine-fade 2 -j 1 --use-multi-epochs-loader --reprob 0.3',
    'no-prefetcher': '--no-prefetcher --model-ema --grad-accum-steps 2 --sched tanh --sched-on-updates',
    'recycled': "--aa '' --mixup 0 --keep-saliency recycled --train-crop-mode pad4 -j 1",
    'lookahead': '--opt lookahead_adamw --joint-occlusion --augment-copies 2 --val-interval 2',
}


def _train(flags: str, output: Path, experiment: str, deadly: int | None) -> None:
    """A whole process, which kills itself before the file operation in the run's folder that is numbered so."""
    sys.stdout = sys.stderr = open(os.devnull, 'w')
    folder, left = str(output / experiment), deadly

    def watch(event: str, arguments: tuple) -> None:
        nonlocal left
        if left is None or event not in FILE_OPERATIONS or folder not in map(_folder, arguments):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run_train(flags, output, experiment)


def _folder(argument) -> str:
    return os.path.dirname(argument) if isinstance(argument, str) else ''


def train(flags: str, output: Path, experiment: str, deadly: int | None = None, seconds: float | None = None) -> bool:
    """Trains in a process of its own, killed after so many seconds; whether it was left to end."""
    process = start(_train, flags, output, experiment, deadly)
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def test_killed_twice(data, tmp_path):
    flags = f'{data} {FLAGS} {BUSY}'
    assert train(flags, tmp_path, 'whole')
    assert not train(flags, tmp_path, 'parts', deadly=20)
    assert not train(flags, tmp_path, 'parts', deadly=12)
    assert train(flags, tmp_path, 'parts')
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')


def _train_without_room(flags: str, output: Path, said: Path) -> None:
    """A whole process whose files end at 200 kB, as if the disk were full."""
    sys.stdout, sys.stderr = open(os.devnull, 'w'), open(said, 'w')
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    explain_errors(lambda: run_train(flags, output, 'parts'))


def test_full_disk_leaves_the_last_checkpoint(data, tmp_path):
    flags = f'{data} {FLAGS} {BUSY}'
    assert train(flags, tmp_path, 'whole')
    assert train(f'{flags} --stop-epoch 2', tmp_path, 'parts')
    before = (tmp_path / 'parts' / 'last.pth.tar').read_bytes()
    process = start(_train_without_room, flags, tmp_path, tmp_path / 'said')
    process.join()
    said = (tmp_path / 'said').read_text()
    assert process.exitcode == 2 and 'Traceback' not in said
    assert f'error: A checkpoint in {tmp_path}/parts cannot be written (File too large): make room' in said
    assert (tmp_path / 'parts' / 'last.pth.tar').read_bytes() == before
    assert train(flags, tmp_path, 'parts')
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')


@pytest.mark.slow
def test_killed_at_every_file_operation(data, tmp_path):
    flags = f'{data} {FLAGS} {BUSY}'
    assert train(flags, tmp_path, 'whole')
    deadly = 1
    while not train(flags, tmp_path, f'parts{deadly}', deadly):
        assert train(flags, tmp_path, f'parts{deadly}')
        assert_same_run(tmp_path / 'whole', tmp_path / f'parts{deadly}')
        deadly += 1
    assert deadly > 40  # ten and more for each epoch


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('name', SETTINGS)
def test_killed_at_random_moments(name, seed, data, tmp_path):
    flags = f'{data} {FLAGS} {SETTINGS[name]}'
    began = time.time()
    assert train(flags, tmp_path, 'whole')
    lasted = time.time() - began
    moments = random.Random(seed)
    for _ in range(5):
        train(flags, tmp_path, 'parts', seconds=moments.uniform(0.1, 0.9) * lasted)
    assert train(flags, tmp_path, 'parts')
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')
