"""`summary.csv` as it is read: a row for each epoch that was evaluated."""

import csv
import itertools
import os
from collections.abc import Collection
from typing import Any


def read_rows(path: str | os.PathLike, numbers: Collection[str] = ()) -> list[dict[Any, Any]]:
    """The rows of a summary, as text, whatever program wrote it last.

    Args:
        path: The file.
        numbers: Columns that hold numbers, where they are there and hold anything.

    Returns:
        What each row holds by column; `epoch` in decimal digits. A header that timm 1.0.29 repeated where a run was
        resumed is no row.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no summary of a run.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            table = csv.DictReader(file)
            if table.fieldnames is not None and 'epoch' not in table.fieldnames:
                raise ValueError('it has no column epoch between commas')
            rows = [row for row in table if row['epoch'] != 'epoch']
        for row in rows:
            row['epoch'] = str(_whole(row['epoch']))
        for row, column in itertools.product(rows, numbers):
            float(row.get(column) or 0)
    except (ValueError, csv.Error) as error:
        reason = 'it is not text' if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(
            f'{path} is no summary of a run ({reason}): give one as a run writes it, or move it away.'
        ) from error
    return rows


def _whole(epoch: str | None) -> int:
    """The number of an epoch, also as other programs write it: 3.0."""
    try:
        number = float(epoch or 'nothing')
        if number >= 0 and number.is_integer():
            return int(number)
    except ValueError:
        pass
    raise ValueError(f'{epoch or "nothing"} stands where the number of an epoch should')
