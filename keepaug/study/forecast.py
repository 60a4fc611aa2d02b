"""How long a whole study takes at full scale, from the epochs that were measured."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from keepaug.study.clock import read_clock
from keepaug.study.runs import StudyRun
from keepaug.study.statistics import spread_of
from keepaug.study.study import Study


def forecast(study: Study, runs: Sequence[StudyRun], slots: int) -> str:
    """A sentence; empty before any run has two epochs. Arms that were not measured count as the mean of the others.

    A bound: what takes as long for a share of the images, such as a whole validation set, counts as growing with them.

    Args:
        study: The study.
        runs: Its runs, at any scale.
        slots: How many runs go on at the same time.
    """
    measured: dict[str, list[float]] = {}
    for run in runs:
        if seconds := seconds_per_epoch(read_clock(run.folder)):
            measured.setdefault(run.arm.name, []).append(seconds * run.whole_epochs)
    if not measured:
        return ''
    arms = {name: spread_of(found).mean for name, found in measured.items()}
    mean = spread_of(list(arms.values())).mean
    count = len(study.arms) * study.seeds
    whole = sum(arms.get(arm.name, mean) for arm in study.arms) * study.seeds / min(slots, count)
    return (
        f'At full scale the {count} runs of this study take {_shown(whole)} at most, {slots} at a time and '
        f'{_shown(mean)} each, by the measured epochs of {len(arms)} of {len(study.arms)} arms.'
    )


def seconds_per_epoch(clock: Mapping[int, float]) -> float | None:
    """Seconds between the ends of epochs, so that what a run needs to start does not count; None of fewer than two."""
    if len(clock) < 2:
        return None
    return (max(clock.values()) - min(clock.values())) / (len(clock) - 1)


def _shown(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
