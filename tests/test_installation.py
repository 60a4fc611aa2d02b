"""How a process of ours was started."""

import sys
from types import SimpleNamespace

import pytest

from keepaug import installation


@pytest.mark.parametrize(
    'script, typed, ours',
    [
        ('-m', 'python -m keepaug.preview --data-dir x', True),
        ('-m', 'python -um keepaug.study x', True),
        ('-m', 'python -m keepaugmented.plot', False),
        ('-m', 'python -m pytest keepaug.plot', False),
        ('/home/a/bin/keepaug-plot', 'python /home/a/bin/keepaug-plot x', True),
        ('loop.py', 'python loop.py keepaug-plot', False),
        ('/home/a/bin/keepaug-plot', 'python -c spawn_main(pipe_handle=5) --multiprocessing-fork', False),
        ('', 'python', False),
    ],
)
def test_a_command_of_ours_is_known_while_it_imports(script, typed, ours, monkeypatch):
    """Elsewhere Ctrl-C is whose program it is."""
    monkeypatch.setattr(sys, 'argv', [script])
    monkeypatch.setattr(sys, 'orig_argv', typed.split())
    assert installation.is_command() is ours


@pytest.mark.parametrize(
    'module, typed',
    [
        (None, 'train.py'),
        ('keepaug.plot', 'python -m keepaug.plot'),
        ('keepaug.study.__main__', 'python -m keepaug.study'),
    ],
)
def test_a_sentence_begins_with_the_command_as_typed(module, typed, monkeypatch):
    spec = None if module is None else SimpleNamespace(name=module)
    monkeypatch.setattr(sys.modules['__main__'], '__spec__', spec)
    monkeypatch.setattr(sys, 'argv', ['/somewhere/train.py'])
    assert installation.program() == typed
