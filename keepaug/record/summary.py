"""A run's numbers: `summary.csv`, the results on stdout, and what refinement changed."""
import csv
import json
import os
from collections.abc import Mapping
from typing import Any

from timm.utils import update_summary

from keepaug.files.drafts import draft_of, unwritable
from keepaug.training.phases import Phases
from keepaug.training.ranking import is_decreasing, tracked_metric


def name_metrics(
        train_metrics: Mapping[str, float],
        eval_metrics: Mapping[str, float],
        lr: float,
        extra: Mapping[str, Any],
) -> dict[str, Any]:
    """An epoch's values under the names of `summary.csv`."""
    return {
        **{f'train_{name}': value for name, value in train_metrics.items()},
        **{f'eval_{name}': value for name, value in eval_metrics.items()},
        'lr': lr,
        **extra,
    }


def write_summary(
        epoch: int,
        train_metrics: Mapping[str, float],
        eval_metrics: Mapping[str, float],
        filename: str,
        lr: float,
        extra: Mapping[str, Any],
        log_wandb: bool = False,
) -> None:
    """Adds an epoch's row to `summary.csv`: stock's columns, and those of `extra`, if any, behind them.

    Rows that a run without `extra` left in the file keep their values; what they lack stays empty.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        with draft_of(filename) as draft:
            _add_row(epoch, train_metrics, eval_metrics, draft, lr, extra, log_wandb)
    except OSError as error:
        raise unwritable(filename, os.path.dirname(filename), error.strerror) from error


def _add_row(
        epoch: int,
        train_metrics: Mapping[str, float],
        eval_metrics: Mapping[str, float],
        filename: str,
        lr: float,
        extra: Mapping[str, Any],
        log_wandb: bool,
) -> None:
    if not extra:
        update_summary(epoch, train_metrics, eval_metrics, filename, lr=lr, log_wandb=log_wandb)
        return
    row = {'epoch': epoch, **name_metrics(train_metrics, eval_metrics, lr, extra)}
    if log_wandb:
        import wandb
        wandb.log(row)
    rows = []
    if os.path.exists(filename):
        with open(filename, newline='') as file:
            rows = list(csv.DictReader(file))
    columns = list(dict.fromkeys([*(rows[0] if rows else ()), *row]))
    with open(filename, 'w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows([*rows, row])


def print_results(results: list[dict], args) -> None:
    """Writes the ten best epochs to stdout as JSON, worst first, behind a line `--result`."""
    metric = tracked_metric(args)
    best_last = sorted(
        results, key=lambda result: (result['validation'] or result['train'])[metric],
        reverse=is_decreasing(args))[-10:]
    print(f'--result\n{json.dumps(best_last, indent=4)}', flush=True)


def describe_refinement(args, phases: Phases, summary: str) -> str | None:
    """What refinement changed, in a line: best and last value of the tracked metric before and after.

    Args:
        args: Options.
        phases: Phases of the run.
        summary: The run's `summary.csv`, which also knows the epochs before a resume.

    Returns:
        None where either phase has no row.
    """
    if not os.path.exists(summary):
        return None
    metric = ('eval_' if args.val_split else 'train_') + tracked_metric(args)
    with open(summary, newline='') as file:
        rows = [(int(row['epoch']), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]
    best = min if is_decreasing(args) else max
    parts = []
    for name, of_phase in (
            ('before refinement', [row for row in rows if row[0] < phases.scheduled]),
            ('after', [row for row in rows if row[0] >= phases.scheduled])):
        if not of_phase:
            return None
        (best_epoch, best_value), (last_epoch, last_value) = best(of_phase, key=lambda row: row[1]), of_phase[-1]
        parts.append(f'{name} best {best_value:.4g} (epoch {best_epoch}), last {last_value:.4g} (epoch {last_epoch})')
    return f'{metric}: ' + '; '.join(parts)
