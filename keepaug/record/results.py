"""What a run says of itself at its end: the best epochs on stdout, and what refinement changed."""

from collections.abc import Mapping, Sequence
from typing import Any

from keepaug.files.plain_json import to_json
from keepaug.training.phases import Phases
from keepaug.training.ranking import Ranking


def print_results(results: Sequence[Mapping[str, Any]], ranking: Ranking) -> None:
    """Writes the ten best epochs to stdout as JSON, worst first, behind a line `--result`."""
    best_last = sorted(results, key=lambda result: ranking.order(ranking.value(result['train'], result['validation'])))[
        -10:
    ]
    print(f'--result\n{to_json(best_last)}', flush=True)


def describe_refinement(rows: Sequence[Mapping[str, str]], phases: Phases, ranking: Ranking) -> str:
    """What refinement changed, in a line: best and last value of the tracked metric before and after.

    Args:
        rows: Those of the run's `summary.csv`, which also knows the epochs before a resume.
        phases: Phases of the run.
        ranking: The metric.

    Returns:
        An empty text where either phase has no row.
    """
    values = [(int(row['epoch']), float(row[ranking.column])) for row in rows if row.get(ranking.column)]
    parts = []
    for name, of_phase in (
        ('before refinement', [value for value in values if value[0] < phases.scheduled]),
        ('after', [value for value in values if value[0] >= phases.scheduled]),
    ):
        if not of_phase:
            return ''
        (best_epoch, best_value), (last_epoch, last_value) = (
            max(of_phase, key=lambda value: ranking.order(value[1])),
            of_phase[-1],
        )
        parts.append(f'{name} best {best_value:.4g} (epoch {best_epoch}), last {last_value:.4g} (epoch {last_epoch})')
    return f'{ranking.column}: ' + '; '.join(parts)
