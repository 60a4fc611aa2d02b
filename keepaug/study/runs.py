"""One run of a study: its command, what is left of it in its folder, and carrying it out."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

import keepaug.models  # noqa: F401  registers our networks with timm
from keepaug.files.plain_json import write_json
from keepaug.files.summary import read_rows
from keepaug.installation import __version__, command
from keepaug.study.clock import FILES, PROCESSOR, WALL, Clock
from keepaug.study.scale import DataShare
from keepaug.study.study import Arm

# How often a run's summary is looked at for the time of each epoch; epochs take longer by far.
LOOK = 1.0  # seconds
# What a run has to end after it is told to, before it is killed: a checkpoint of the largest networks takes seconds.
PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Slot:
    """Where a run is carried out.

    Attributes:
        device: 'cpu' or 'cuda'.
        units: Threads of each process on a processor, or numbers of GPUs; one process each.
    """

    device: str
    units: tuple[str, ...]

    def __str__(self) -> str:
        return f'{self.device}:{",".join(self.units)}'

    @classmethod
    def read(cls, text: str) -> 'Slot':
        """A slot as it is typed: 'cpu:1', 'cuda:0', and with several processes 'cuda:0,1' or 'cpu:1,1'.

        Raises:
            ValueError: It is none.
        """
        device, _, units = text.partition(':')
        numbers = tuple((units or ('1' if device == 'cpu' else '0')).split(','))
        if device not in ('cpu', 'cuda') or not all(number.isdecimal() for number in numbers):
            raise ValueError(
                f'--slots {text} is not a slot: write cpu:1 (one thread), cuda:0 (one GPU) or cuda:0,1 (one process '
                'on each).'
            )
        if device == 'cpu' and '0' in numbers:
            raise ValueError(f'--slots {text} has no thread: write cpu:1.')
        return cls(device, numbers)

    def check(self) -> None:
        """Says what this machine lacks of it.

        Raises:
            ValueError: It has no such GPU.
        """
        count = torch.cuda.device_count() if self.device == 'cuda' else 0
        if self.device == 'cuda' and any(int(unit) >= count for unit in self.units):
            held = f'GPUs 0 to {count - 1}' if count else 'no GPU that torch can use: write cpu:1'
            raise ValueError(f'--slots {self} is not there; this machine has {held}.')

    @property
    def launcher(self) -> list[str]:
        """What starts train.py."""
        if len(self.units) == 1:
            return [sys.executable, '-m', 'keepaug.train']
        several = ['--standalone', f'--nproc_per_node={len(self.units)}', '-m', 'keepaug.train']
        return [sys.executable, '-m', 'torch.distributed.run', *several]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of its processes."""
        if self.device == 'cpu':
            return {**os.environ, 'OMP_NUM_THREADS': self.units[0]}
        return {**os.environ, 'CUDA_VISIBLE_DEVICES': ','.join(self.units)}


@dataclass(frozen=True)
class StudyRun:
    """One arm with one seed.

    Attributes:
        arm: The arm.
        seed: The seed.
        words: train.py's command line, without what places the run: device and folder.
        folder: Folder of the run.
        exact: Whether it is resumed exactly.
        identity: What runs that stand in one folder must share: options, versions, data.
        share: The share of an image folder it trains on; None for all of the data.
        whole_epochs: How many epochs of its size the run at full scale would take.
    """

    arm: Arm
    seed: int
    words: tuple[str, ...]
    folder: Path
    exact: bool
    identity: dict[str, str]
    share: DataShare | None = None
    whole_epochs: float = 0.0

    @property
    def outcome(self) -> dict[str, Any]:
        """What is known of the run: `status` ('done' or 'failed'), `seconds`, `command` ...; empty before it ran."""
        try:
            return json.loads((self.folder / 'outcome.json').read_text())
        except (OSError, ValueError):
            return {}

    @property
    def done(self) -> bool:
        return self.outcome.get('status') == 'done'

    def command(self, slot: Slot | None = None) -> list[str]:
        """The whole command; without a slot for whatever device train.py takes."""
        launcher = command('train') if slot is None else slot.launcher
        device = [] if slot is None else ['--device', slot.device]
        resume = ['--exact-resume', '--resume', 'auto'] if self.exact else []
        return [
            *launcher,
            *self.words,
            *device,
            '--seed',
            str(self.seed),
            *resume,
            '--output',
            str(self.folder.parent),
            '--experiment',
            self.folder.name,
        ]

    def check(self) -> None:
        """Refuses to mix what this run would be with what its folder holds.

        Raises:
            ValueError: The folder holds a run of other flags, versions or data.
        """
        held = self.outcome
        if not held:
            return
        for name, value in self.identity.items():
            if held.get(name) != value:
                raise ValueError(
                    f'{self.folder} holds a run with other {name} ({_first_difference(held.get(name), value)}): give '
                    'another --output, or the same flags, versions and data.'
                )

    def make_data(self) -> None:
        """Makes the folder of a share of the data, where it trains on one."""
        if self.share:
            self.share.make()

    def carry_out(self, slot: Slot, stop: threading.Event) -> bool:
        """Runs it, or what is left of it, and writes down how it ended.

        Returns:
            Whether it was trained to its end; False also where it was told to stop.
        """
        self.make_data()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.exact:  # which cannot go on where it was
            for name in ('summary.csv', *FILES.values()):
                (self.folder / name).unlink(missing_ok=True)
        with open(self.folder / 'run.log', 'a') as log:
            process = subprocess.Popen(
                self.command(slot), env=slot.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                clock = Clock(self.folder, process.pid)
                while process.poll() is None:
                    clock.look()
                    if stop.wait(LOOK):
                        _end(process)
                        clock.look()
                        return False
                clock.look()
            except BaseException:
                if process.poll() is None:
                    _end(process)
                raise
        done, seconds = process.returncode == 0, clock.seconds()
        write_json(
            str(self.folder / 'outcome.json'),
            {
                'arm': self.arm.name,
                'seed': self.seed,
                'status': 'done' if done else 'failed',
                'reason': '' if done else _last_words(self.folder / 'run.log'),
                'exit_status': process.returncode,
                'seconds': seconds[WALL],
                'processor_seconds': seconds[PROCESSOR],
                'slot': str(slot),
                'command': shlex.join(self.command()),
                **self.identity,
            },
        )
        return done

    def curve(self, column: str) -> list[tuple[int, float]]:
        """Values of a column of `summary.csv` by epoch; empty where there are none."""
        try:
            rows = read_rows(self.folder / 'summary.csv', numbers=[column])
        except OSError:
            return []
        return [(int(row['epoch']), float(row[column])) for row in rows if row.get(column)]


def versions() -> dict[str, str]:
    """What runs must share to be compared, beside their flags."""
    return {'versions': f'keepaug {__version__}, timm {timm.__version__}, torch {torch.__version__}'}


def _first_difference(held: Any, wanted: str) -> str:
    """The first words in which two texts differ."""
    before, now = (str(text).split() for text in (held, wanted))
    pairs = zip([*before, 'nothing more'], [*now, 'nothing more'])
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    return f'{first[0]} where this one has {first[1]}' if first else 'in spaces only'


def _end(process: subprocess.Popen) -> None:
    """Lets a run end with a checkpoint; kills it if it does not."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(log: Path) -> str:
    """What a run that failed says last."""
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
    errors = [line for line in lines if 'error' in line.lower()]
    return (errors or lines or ['it said nothing'])[-1][:500]
