"""Running train.py and validate.py inside the test process, and a data set small enough to do it often."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import train
import validate
from keepaug.console.errors import explain_errors

# Three epochs of three updates on the folder that `write_images` writes take about a second.
TINY = '--model test_resnet --img-size 32 --num-classes 3 -b 8 --epochs 2 --warmup-epochs 0 --lr 0.05 --device cpu -j 0'


def write_images(folder: Path, per_class: int = 8, classes: int = 3, size: int = 32) -> Path:
    """An image folder with splits train and val; a class is known by its bright channel."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in range(classes):
            place = folder / split / f'class{label}'
            place.mkdir(parents=True)
            for i in range(per_class):
                image = rng.integers(0, 100, (size, size, 3))
                image[..., label % 3] += 100
                Image.fromarray(image.astype(np.uint8)).save(place / f'{i:02d}.png')
    return folder


def run_train(flags: str, output: Path, experiment: str = 'run') -> Path:
    """Runs train.py with a command line and gives the run's folder."""
    with as_script(train, _argv('train.py', flags, output, experiment)):
        train.main()
    return output / experiment


def refuse_train(flags: str, output: Path, capsys, experiment: str = 'run') -> str:
    """Runs train.py with a command line that must be refused, and gives what it says on stderr."""
    return _refuse(train, _argv('train.py', flags, output, experiment), capsys)


def run_validate(flags: str, capsys) -> Any:
    """Runs validate.py with a command line and gives what it prints behind `--result`, and nothing before it."""
    capsys.readouterr()
    with as_script(validate, ['validate.py', *shlex.split(flags)]):
        validate.main()
    head, _, results = capsys.readouterr().out.partition('--result\n')
    assert head == ''
    return json.loads(results)


def refuse_validate(flags: str, capsys) -> str:
    """Runs validate.py with a command line that must be refused, and gives what it says on stderr."""
    return _refuse(validate, ['validate.py', *shlex.split(flags)], capsys)


def _argv(script: str, flags: str, output: Path, experiment: str) -> list[str]:
    return [script, *shlex.split(flags), '--output', str(output), '--experiment', experiment]


@contextmanager
def as_script(script: ModuleType, argv: list[str]) -> Iterator[None]:
    """A script's surroundings, but for the log handler it would leave in the test process."""
    with (
        mock.patch.object(sys, 'argv', argv),
        mock.patch.object(sys.modules['__main__'], '__spec__', None),  # not `python -m pytest`
        mock.patch.object(script, 'setup_default_logging'),
    ):
        yield


def _refuse(script: ModuleType, argv: list[str], capsys) -> str:
    capsys.readouterr()
    with as_script(script, argv), pytest.raises(SystemExit) as leave:
        explain_errors(script.main)
    assert leave.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if f'{argv[0]}: error' in line]
    assert len(said) == 1
    return said[0]


def await_next_second() -> None:
    """Event files are ordered by the second in their names, and no two processes of a run start in the same one."""
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.02)
