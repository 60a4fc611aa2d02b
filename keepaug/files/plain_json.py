"""JSON that every reader takes: of numbers it knows the finite ones only."""

import json
import math
from collections.abc import Mapping
from typing import Any

from keepaug.files.drafts import whole_file


def to_json(value: Any) -> str:
    """A value as JSON, indented; a number that is not finite becomes null."""
    return json.dumps(_finite(value), indent=4, allow_nan=False)


def write_json(path: str, value: Any, typed: bool = False) -> None:
    """Writes a file with `to_json`, as `whole_file` does.

    Raises:
        OSError: The file cannot be written.
    """
    with whole_file(path, typed) as draft, open(draft, 'w') as file:
        file.write(to_json(value))


def parse_json(text: str) -> Any:
    """A value from JSON that may be anybody's.

    Raises:
        ValueError: It is no JSON, or nested deeper than any description is.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError('It is nested too deep.') from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value
