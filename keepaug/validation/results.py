"""The numbers of a validation, shown and written."""

import csv
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from timm.utils import check_batch_size_retry, decay_batch_step

from keepaug.console.errors import first_line
from keepaug.console.processes import is_first_process
from keepaug.files.drafts import whole_file
from keepaug.files.outputs import check_output_file, explained_output
from keepaug.files.plain_json import write_json

_logger = logging.getLogger('validate')

# Scores that are reported with their complement, the error.
ACCURACIES = ('top1', 'top5')


def headline(metrics: OrderedDict[str, float]) -> str:
    """Scores in percent as one line, accuracies with their errors."""
    return ' '.join(
        f'Acc@{name[3:]} {value:.3f} ({100 - value:.3f})' if name in ACCURACIES else f'{name} {value:.3f}'
        for name, value in metrics.items()
    )


def rounded(metrics: OrderedDict[str, float]) -> OrderedDict[str, float]:
    """Scores in percent at four decimals, each accuracy followed by its error."""
    results = OrderedDict()
    for name, value in metrics.items():
        results[name] = round(value, 4)
        if name in ACCURACIES:
            results[f'{name}_err'] = round(100 - value, 4)
    return results


def retry_smaller(run: Callable[[int], OrderedDict], batch_size: int, model: str, retry: bool) -> OrderedDict:
    """Runs with a batch size and, while that fails for want of memory, with smaller ones.

    Args:
        run: Takes a batch size, gives results.
        batch_size: The first to try.
        model: Name for the result of a run that never succeeded.
        retry: Whether to try again at all.

    Returns:
        The results, or `model` and `error`.
    """
    while True:
        try:
            return run(batch_size)
        except RuntimeError as error:
            if not retry:
                raise
            text = str(error)
            torch.cuda.empty_cache()
            batch_size = decay_batch_step(batch_size) if check_batch_size_retry(text) else 0
            if not batch_size:
                _logger.error(f'{model} failed: {first_line(error)}')
                return OrderedDict(model=model, error=text)
            _logger.warning(f'Reducing batch size to {batch_size} for retry.')


def check_files(args) -> None:
    """Says before anything is built what is wrong with the files of labels and of results that the flags name.

    Raises:
        ValueError: One is not there, or cannot be written.
    """
    if args.results_file and is_first_process():  # which alone writes it
        check_output_file(args.results_file, '--results-file')
    for flag, path in (('--real-labels', args.real_labels), ('--valid-labels', args.valid_labels)):
        if path and (not os.path.exists(path) or os.path.isdir(path)):
            raise ValueError(f'{flag} {path} is not a file: give the path of one.')


def write_results(path: str, results: Sequence[dict] | dict, file_format: str = 'csv') -> None:
    """Writes results to a file, as csv with the columns of all rows or as json.

    Raises:
        ValueError: The file cannot be written.
    """
    with explained_output(path, '--results-file'):
        if file_format == 'json':
            write_json(path, results, typed=True)
            return
        rows = [results] if isinstance(results, dict) else results
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with whole_file(path, typed=True) as draft, open(draft, 'w', newline='') as file:
            if columns:
                writer = csv.DictWriter(file, fieldnames=columns)
                writer.writeheader()
                writer.writerows(rows)
