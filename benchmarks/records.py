"""Measurements that stand beside those of other days, in one file."""

import json
from pathlib import Path
from typing import Any

from keepaug.files.drafts import whole_file


def add_record(path: Path, record: dict[str, Any]) -> None:
    """Adds a measurement to a JSON list of them, which stays whole if that fails."""
    records = json.loads(path.read_text()) if path.exists() else []
    with whole_file(path) as draft:
        Path(draft).write_text(json.dumps([*records, record], indent=1) + '\n')
