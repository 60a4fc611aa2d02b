"""The examples run as a reader runs them, and do what they say."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / 'examples').glob('*.py'))


@pytest.mark.parametrize('example', EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example):
    result = subprocess.run(
        [sys.executable, str(example)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PATH': ''})
    assert result.returncode == 0, result.stderr
    before, after = map(int, re.findall(r'(\d+)%', result.stdout.splitlines()[-1]))
    assert after > before + 20


def test_there_are_examples():
    assert EXAMPLES
