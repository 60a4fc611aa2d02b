"""How a range says what it allows."""

import pytest

from keepaug.ranges import Range


@pytest.mark.parametrize('unit, units', [('epoch', 'epochs'), ('pixel', 'pixels'), ('batch', 'batches')])
def test_units_have_their_plural(unit, units):
    assert Range(least=2, whole=True, unit=unit).problem(0) == f'must be at least 2 {units}'
    assert Range(least=1, whole=True, unit=unit).problem(0) == f'must be at least 1 {unit}'
