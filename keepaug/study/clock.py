"""What a run's epochs cost: seconds that passed, and seconds that processors worked for it.

On a machine that others use too, what passes tells how busy they are, and only the work of processors compares arms.
Where a GPU does the work, what passes is the honest number.
"""

import csv
import os
import time
from pathlib import Path

from keepaug.files.summary import read_rows

WALL, PROCESSOR = 'wall', 'processor'
# Files of a run's folder: after how many seconds each epoch was done.
FILES = {WALL: 'clock.csv', PROCESSOR: 'processor-clock.csv'}
# Fields of Linux's /proc/PID/stat behind the name: the session, and ticks of the process and of its children that have
# ended, for programs and for the system.
SESSION, TIMES = 3, slice(11, 15)


class Clock:
    """Writes down after how many seconds of work each epoch of a run was done.

    Args:
        folder: Folder of the run; what earlier parts of the run took counts, up to their last epoch.
        session: The number of the run's process, which leads a session of its own.
    """

    def __init__(self, folder: Path, session: int):
        self.folder, self.session = folder, session
        before = {kind: read_clock(folder, kind) for kind in FILES}
        self.before: dict[str, float | None] = {
            kind: max(clock.values(), default=0.0) for kind, clock in before.items()
        }
        if before[PROCESSOR].keys() != before[WALL].keys():  # begun where this could not be told
            self.before[PROCESSOR] = None
        self.worked = processor_seconds(session)
        self.start = time.monotonic()

    def seconds(self) -> dict[str, float | None]:
        """Seconds of the whole run so far; None of processors where that cannot be told."""
        self._ask()
        spent = {WALL: time.monotonic() - self.start, PROCESSOR: self.worked}
        return {kind: _sum(self.before[kind], seconds) for kind, seconds in spent.items()}

    def look(self) -> None:
        """Notes the epochs that are new in the summary."""
        self._ask()
        known = read_clock(self.folder)
        try:
            epochs = [int(row['epoch']) for row in read_rows(self.folder / 'summary.csv')]
        except (OSError, ValueError):
            return
        new = [epoch for epoch in epochs if epoch not in known]
        for kind, seconds in self.seconds().items() if new else ():
            if seconds is not None:
                with open(self.folder / FILES[kind], 'a', newline='') as file:
                    csv.writer(file).writerows((epoch, seconds) for epoch in new)

    def _ask(self) -> None:
        """What ended without being waited for is in no later sum; and at the end there is none."""
        if self.worked is not None:
            self.worked = max(self.worked, processor_seconds(self.session) or 0.0)


def _sum(before: float | None, since: float | None) -> float | None:
    return None if before is None or since is None else round(before + since, 1)


def read_clock(folder: Path, kind: str = WALL) -> dict[int, float]:
    """Seconds of work after which each epoch of a run was done; empty where that is not known."""
    try:
        with open(folder / FILES[kind], newline='') as file:
            return {int(epoch): float(seconds) for epoch, seconds in csv.reader(file)}
    except (OSError, ValueError):
        return {}


def processor_seconds(session: int) -> float | None:
    """Seconds that processors have worked for a session's processes and their ended children; None if none is there."""
    found = None
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text(errors='replace').rpartition(')')[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[SESSION]) == session:
            found = (found or 0.0) + sum(map(int, fields[TIMES])) / os.sysconf('SC_CLK_TCK')
    return found
