"""What the finished runs of a study say: one row per run, one line per arm, and the differences between arms."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepaug.files.drafts import whole_file
from keepaug.study.clock import PROCESSOR, WALL, read_clock
from keepaug.study.runs import StudyRun
from keepaug.study.statistics import (
    Difference,
    Spread,
    at_time,
    difference_of,
    of_curve,
    spread_of,
    without_infinity,
)
from keepaug.study.study import STATISTICS, Study

COLUMNS = (
    'arm',
    'seed',
    'status',
    *STATISTICS,
    'at_equal_time',
    'epochs',
    'seconds',
    'processor_seconds',
    'clock',
    'reason',
    'flags',
    'versions',
    'data',
)
# Columns of a run's whole time, by clock.
SECONDS = {WALL: 'seconds', PROCESSOR: 'processor_seconds'}


@dataclass(frozen=True)
class Line:
    """One arm in the table.

    Attributes:
        name: The arm.
        paper: The paper's number, or None.
        spreads: Mean over seeds of each statistic; empty before a run is done.
        at_equal_time: The same of the last value within the time of the cheapest arm; None where unknown.
        hours: Mean hours of a run, by the clock of the results.
        failed: Runs that failed.
    """

    name: str
    paper: float | None
    spreads: dict[str, Spread]
    at_equal_time: Spread | None
    hours: float | None
    failed: int


@dataclass(frozen=True)
class Comparison:
    """The difference of two arms.

    Attributes:
        first: Arm that the other is subtracted from.
        second: The other.
        epochs: Difference of the study's statistic at equal epochs; None where no seed has both.
        time: Difference of the last value at equal time.
        paper: The paper's difference, where it has both.
    """

    first: str
    second: str
    epochs: Difference | None
    time: Difference | None
    paper: float | None


@dataclass(frozen=True)
class Results:
    """Everything that is known of a study.

    Attributes:
        study: The study.
        rows: One per run, by the names of `COLUMNS`.
        lines: One per arm.
        comparisons: The pairs that the study compares.
        clock: What time is that is equal and counted in hours: that of processors, or that which passed (`WALL`).
    """

    study: Study
    rows: list[dict[str, Any]]
    lines: list[Line]
    comparisons: list[Comparison]
    clock: str = WALL


def _gap(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def collect(study: Study, runs: Sequence[StudyRun]) -> Results:
    """Reads what the runs have left."""
    curves = {(run.arm.name, run.seed): without_infinity(run.curve(study.metric)) for run in runs if run.done}
    clock = choose_clock([run for run in runs if run.done])
    clocks = {(run.arm.name, run.seed): read_clock(run.folder, clock) for run in runs if run.done}
    rows = []
    for run in runs:
        outcome, key = run.outcome, (run.arm.name, run.seed)
        if not outcome:
            continue
        row = {
            'arm': run.arm.name,
            'seed': run.seed,
            'status': outcome['status'],
            'reason': outcome.get('reason', ''),
            **{name: outcome.get(name) for name in ('seconds', 'processor_seconds')},
            'clock': clock,
            **{name: outcome.get(name) for name in ('flags', 'versions', 'data')},
        }
        if curves.get(key):
            row |= of_curve(curves[key], study.decreasing) | {'epochs': len(curves[key])}
            if lost := sum(math.isnan(value) for _, value in curves[key]):
                row['reason'] = (
                    f'{lost} of its {len(curves[key])} values of {study.metric} are no numbers; they rank last'
                )
            budget = _budget(clocks, run.seed)
            row['at_equal_time'] = at_time(curves[key], clocks[key], budget) if budget else None
        elif run.done:
            row['reason'] = f'its summary.csv has no values for {study.metric}, the metric of the study'
        rows.append(row)
    by_arm = {
        arm.name: {
            name: {row['seed']: row[name] for row in rows if row['arm'] == arm.name and row.get(name) is not None}
            for name in (*STATISTICS, 'at_equal_time', SECONDS[clock])
        }
        for arm in study.arms
    }
    lines = [_line(study, arm.name, arm.paper, by_arm[arm.name], rows, SECONDS[clock]) for arm in study.arms]
    paper = {arm.name: arm.paper for arm in study.arms}
    comparisons = [
        Comparison(
            first,
            second,
            difference_of(by_arm[first][study.statistic], by_arm[second][study.statistic]),
            difference_of(by_arm[first]['at_equal_time'], by_arm[second]['at_equal_time']),
            _gap(paper[first], paper[second]),
        )
        for first, second in study.compare
    ]
    return Results(study, rows, lines, comparisons, clock)


def choose_clock(runs: Sequence[StudyRun]) -> str:
    """The time that compares finished runs: of processors, if these did all the work and it is known of every epoch."""
    counted = all(
        str(run.outcome.get('slot', '')).startswith('cpu')
        and run.outcome.get(SECONDS[PROCESSOR]) is not None
        and read_clock(run.folder, PROCESSOR).keys() == read_clock(run.folder).keys()
        for run in runs
    )
    return PROCESSOR if runs and counted else WALL


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes `results.csv`, one row per run that has ended."""
    with whole_file(path) as draft, open(draft, 'w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _budget(clocks: dict[tuple[str, int], dict[int, float]], seed: int) -> float | None:
    """Seconds that the cheapest arm took with a seed."""
    totals = [max(clock.values()) for (_, of_seed), clock in clocks.items() if of_seed == seed and clock]
    return min(totals, default=None)


def _line(
    study: Study, name: str, paper: float | None, values: dict[str, dict[int, float]], rows, seconds: str
) -> Line:
    spreads = {key: spread_of(list(values[key].values())) for key in STATISTICS if values[key]}
    at_equal_time = spread_of(list(values['at_equal_time'].values())) if values['at_equal_time'] else None
    hours = spread_of(list(values[seconds].values())).mean / 3600 if values[seconds] else None
    failed = sum(row['arm'] == name and row['status'] == 'failed' for row in rows)
    return Line(name, paper, spreads, at_equal_time, hours, failed)
