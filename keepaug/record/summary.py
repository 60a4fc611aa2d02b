"""`summary.csv`: a row for each epoch that was evaluated."""

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

from keepaug.console.errors import first_line
from keepaug.files.drafts import unwritable, whole_file
from keepaug.files.summary import read_rows


class Summary:
    """The file, which is stock's bit for bit where rows have no columns but stock's.

    Rows may differ in their columns: each keeps its values, and what it lacks stays empty.

    Args:
        path: Where it is, or will be with the first row.
    """

    def __init__(self, path: str):
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        """What the file holds, as text.

        Raises:
            ValueError: It is no summary.
        """
        return read_rows(self.path) if os.path.exists(self.path) else []

    def row(self, epoch: int) -> dict[str, str]:
        """An epoch's row, as text; empty where it has none.

        Raises:
            ValueError: As `rows`.
        """
        return next((row for row in self.rows() if int(row['epoch']) == epoch), {})

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds an epoch's row, or writes it anew.

        Raises:
            OSError: The file cannot be written; it stays as it was.
            ValueError: As `rows`.
        """
        try:
            self._write_rows([*(held for held in self.rows() if int(held['epoch']) != row['epoch']), row])
        except OSError as error:
            raise unwritable(self.path, os.path.dirname(self.path), error.strerror or first_line(error)) from error

    def drop_from(self, epoch: int) -> int:
        """Drops the rows of an epoch and of all after it, and tells how many these were.

        Raises:
            OSError: The file cannot be written.
            ValueError: As `rows`.
        """
        held = self.rows()
        kept = [row for row in held if int(row['epoch']) < epoch]
        if not kept and os.path.exists(self.path):
            os.unlink(self.path)
        elif len(kept) < len(held):
            self._write_rows(kept)
        return len(held) - len(kept)

    def _write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row if column is not None))
        with whole_file(self.path) as draft, open(draft, 'w', newline='') as file:
            # Cells without a column, of a file that stock wrote before and after a change of flags, have no name.
            writer = csv.DictWriter(file, columns, extrasaction='ignore')
            writer.writeheader()
            writer.writerows(rows)


def name_metrics(
    epoch: int,
    train_metrics: Mapping[str, float],
    eval_metrics: Mapping[str, float],
    lr: float,
) -> dict[str, float]:
    """An epoch's values under the names of `summary.csv`."""
    return {
        'epoch': epoch,
        **{f'train_{name}': value for name, value in train_metrics.items()},
        **{f'eval_{name}': value for name, value in eval_metrics.items()},
        'lr': lr,
    }
