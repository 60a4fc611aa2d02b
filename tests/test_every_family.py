"""Every architecture of timm through a training step with each saliency, and the table that says so."""

from pathlib import Path

import pytest
import timm

from tests.every_family import COLUMNS, CORE, FAMILIES, WORKS, walk

TABLE = Path(__file__).parents[1] / 'docs' / 'families.md'

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::FutureWarning')  # timm's own


def test_no_architecture_is_missing():
    """A module that is new in timm needs a row in FAMILIES, and a row in the table."""
    assert sorted(FAMILIES) == sorted(timm.list_modules())
    assert all(name in FAMILIES for name in CORE)


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in CORE else pytest.mark.slow) for name in FAMILIES]
)
def test_trains_with_every_saliency(name):
    results, low, _, default = walk(name)
    refused = {'low'} if FAMILIES[name].refused else set()
    assert {column for column, result in results.items() if result != WORKS} == refused
    assert set(results) == set(COLUMNS)
    assert (low is None) == bool(refused)
    assert default == ('low-early' if refused else 'low')


def test_table_is_complete():
    """Written by `python -m tests.every_family --output docs/families.md`."""
    rows = [line.strip('| \n').split(' | ') for line in TABLE.read_text().splitlines() if line.startswith('| ')]
    header, *rows = rows
    assert header == ['module', 'model', 'px', *COLUMNS, 'default']
    for name, row in zip(FAMILIES, rows, strict=True):
        family = FAMILIES[name]
        assert row[:3] == [name, family.model, str(family.size)]
        cells = dict(zip(header, row))
        assert cells.pop('low').startswith(f'refused: {family.refused}' if family.refused else WORKS)
        assert all(cells[column] == WORKS for column in COLUMNS if column in cells)
        assert row[-1] == ('low-early' if family.refused else 'low')
