"""Text as a spreadsheet reads it."""

from typing import Any

# What a cell begins with that a spreadsheet calculates.
FORMULAS = ('=', '+', '-', '@', '\t', '\r')


def as_text(cell: Any) -> Any:
    """A cell of a CSV file, behind an apostrophe where it is text that a spreadsheet would take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell
