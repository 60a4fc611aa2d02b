"""How far a pass over the data has come: always counted, and on a terminal shown as a live line below the log."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TextIO

from rich import progress
from rich.console import Console
from rich.table import Column

# Seconds between two drawings of the line, each of which takes the host about a millisecond.
INTERVAL = 0.25


class Progress:
    """Counts, and shows nothing: what a run has whose log goes to a file.

    Attributes:
        images_per_second: Images of all processes over the seconds of the last training epoch; 0 before there is one.
        last_update: Epoch and number of the last update; None before the first, and while one is being made.
    """

    def __init__(self):
        self.images_per_second = 0.0
        self.last_update: tuple[int, int] | None = None
        self._images = 0
        self._start = 0.0

    @contextlib.contextmanager
    def training(self, epoch: int, batches: int) -> Iterator[None]:
        """Surrounds one epoch of so many batches."""
        self._begin()
        yield
        self.images_per_second = self._rate()

    @contextlib.contextmanager
    def validating(self, batches: int, title: str = 'validation') -> Iterator[None]:
        """Surrounds one pass of validation, which leaves `images_per_second` as it is."""
        self._begin()
        yield

    def advance(self, images: int) -> None:
        """One batch is done, of so many images over all processes."""
        self._images += images

    def show_loss(self, loss: str) -> None:
        """Takes the loss whenever a log line has fetched it."""

    def _begin(self) -> None:
        self._images, self._start = 0, time.perf_counter()

    def _rate(self) -> float:
        return self._images / max(time.perf_counter() - self._start, 1e-9)


class LiveProgress(Progress):
    """Shows epoch, batch, images per second, loss, and the time left in the pass and in the run.

    The line is drawn in between batches by the thread that trains: another thread could hold the console's lock at the
    moment a loader worker is forked, which would then wait for it for ever.

    Args:
        console: Terminal.
        first_epoch: Epoch the run starts with.
        last_epoch: Epoch before which it ends.
    """

    def __init__(self, console: Console, first_epoch: int = 0, last_epoch: int = 0):
        super().__init__()
        self.console = console
        self.first_epoch, self.last_epoch = first_epoch, last_epoch
        self._run_start: float | None = None
        self._done = 0.0  # epochs of this run
        self._epochs_per_batch = 0.0
        self._display: progress.Progress  # of the pass that is shown
        self._task: progress.Task
        self._drawn = 0.0

    @contextlib.contextmanager
    def training(self, epoch: int, batches: int) -> Iterator[None]:
        self._run_start = self._run_start or time.perf_counter()
        self._done, self._epochs_per_batch = epoch - self.first_epoch, 1 / max(1, batches)
        with self._shown(f'epoch {epoch}/{self.last_epoch}', batches), super().training(epoch, batches):
            yield

    @contextlib.contextmanager
    def validating(self, batches: int, title: str = 'validation') -> Iterator[None]:
        self._epochs_per_batch = 0.0
        with self._shown(title, batches), super().validating(batches, title):
            yield

    def advance(self, images: int) -> None:
        super().advance(images)
        self._done += self._epochs_per_batch
        self._display.advance(self._task.id)
        if time.perf_counter() - self._drawn > INTERVAL or self._task.completed == self._task.total:
            self._display.update(self._task.id, rate=f'{self._rate():,.0f} images/s', run=self._run_left())
            self._display.refresh()
            self._drawn = time.perf_counter()

    def show_loss(self, loss: str) -> None:
        self._display.update(self._task.id, loss=f'loss {loss}')

    @contextlib.contextmanager
    def _shown(self, title: str, batches: int) -> Iterator[None]:
        self._display = progress.Progress(
            _words('{task.description} [{task.completed}/{task.total}]'),
            progress.BarColumn(bar_width=20),
            _words('{task.fields[rate]} {task.fields[loss]} ETA'),
            progress.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            _words('{task.fields[run]}'),
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._display.add_task(title, total=batches, rate='', loss='', run=self._run_left())
        self._task = self._display.tasks[0]
        with self._display, written_above(self.console):
            yield

    def _run_left(self) -> str:
        """Time left in the run, by its speed so far; validation and all else between epochs counts too."""
        if self._run_start is None or not self._done:
            return ''
        epochs = self.last_epoch - self.first_epoch
        left = (time.perf_counter() - self._run_start) * max(0.0, epochs - self._done) / self._done
        return f'run {timedelta(seconds=round(left))} left'


def _words(text: str) -> progress.TextColumn:
    return progress.TextColumn(text, table_column=Column(no_wrap=True), markup=False)


class Above:
    """A stream whose lines appear above what is live on a terminal, each as it is, however long.

    Loader workers, which inherit it, write to the terminal directly.

    Args:
        stream: The terminal.
        console: What draws on it.
    """

    def __init__(self, stream: TextIO, console: Console):
        self.stream = stream
        self.console = console
        self.process = os.getpid()
        self.begun = ''

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if os.getpid() != self.process:
            return self.stream.write(text)
        *lines, self.begun = (self.begun + text).split('\n')
        for line in lines:
            self.console.out(line, highlight=False)
        return len(text)


@contextlib.contextmanager
def written_above(console: Console) -> Iterator[None]:
    """Lets log lines, and all else that goes to stderr, appear above what is live on the console."""
    stream = sys.stderr
    above = Above(stream, console)
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream
    ]
    for handler in handlers:
        handler.setStream(above)
    try:
        with contextlib.redirect_stderr(above):
            yield
    finally:
        for handler in handlers:
            handler.setStream(stream)
        if above.begun:
            above.write('\n')


def open_progress(first_epoch: int = 0, last_epoch: int = 0, rank: int = 0) -> Progress:
    """What the first process shows on a terminal: nothing elsewhere, or where the terminal is to stay plain."""
    stream = sys.stderr  # where the log goes
    plain = os.environ.get('TERM', '') in ('dumb', 'unknown') or any(map(os.environ.get, ('NO_COLOR', 'CI')))
    if rank != 0 or plain or not stream.isatty():
        return Progress()
    return LiveProgress(Console(file=stream, force_terminal=True), first_epoch, last_epoch)
