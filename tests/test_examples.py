"""The examples run as a reader runs them, and do what they say."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / 'examples').glob('*.py'))


@pytest.mark.parametrize('example', EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(example)])
    runpy.run_path(str(example), run_name='__main__')
    before, after = map(int, re.findall(r'(\d+)%', capsys.readouterr().out.splitlines()[-1]))
    assert after > before + 20


def test_there_are_examples():
    assert EXAMPLES
