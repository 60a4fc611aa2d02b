"""The rules of the house: imports point down, a method is one file, no file is long."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'keepaug'
# From the ground up; what stands on one floor does not import each other.
FLOORS = [
    {'installation', 'private'},
    {'machine', 'ranges'},
    {'console', 'datasets', 'files'},
    {'functional'},
    {'models'},
    {'augment'},
    {'data'},
    {'training'},
    {'methods'},
    {'measuring'},
    {'pictures'},
    {'record', 'validation'},
    {'options'},
    {'evaluation', 'export'},
    {'study'},
    {'commands', 'demo', 'next_step', 'plot', 'preview'},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = [path for path in sorted(PACKAGE.rglob('*.py')) if path != PACKAGE / '__init__.py']


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported(path: Path) -> Iterator[str]:
    """Rooms that a file imports; the whole package counts as the room ''."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            package, _, rest = name.partition('.')
            if package == 'keepaug':
                yield rest.partition('.')[0]


def test_every_room_has_its_floor():
    assert {room_of(path) for path in FILES} == set(LEVEL)


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    level = LEVEL[room_of(path)]
    for room in imported(path):
        if room == room_of(path):
            continue
        # The whole package holds the public names; only commands, which stand above all rooms, may use it.
        below = LEVEL.get(room, LEVEL['next_step'] - (room_of(path) in FLOORS[-1]))
        assert below < level, f'{room or "the package"} does not lie below {room_of(path)}'


def test_a_method_is_one_file():
    """Its package and its augmentation, which another one erases with, are all that name it beside it."""
    knowing = [path for path in FILES if re.search(r'\bkeep_cut\b', path.read_text())]
    assert len(knowing) <= 5, knowing


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize('path', [*FILES, ROOT / 'train.py', ROOT / 'validate.py'], ids=lambda path: path.stem)
def test_no_option_is_guessed_at(path):
    assert not re.search(r'getattr\((args|recorded|run|prepared), ', path.read_text())


LIBRARIES = ('torch', 'torchvision', 'timm')


def private_names(path: Path) -> Iterator[str]:
    """Private names of torch, torchvision and timm that a file uses."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        else:
            continue
        for name in names:
            library, *parts = name.split('.')
            if (
                library in LIBRARIES
                and re.fullmatch(r'[\w.]+', name)
                and any(re.match(r'_(?!_)', part) for part in parts)
            ):
                yield name


@pytest.mark.parametrize(
    'path', [ROOT / 'train.py', ROOT / 'validate.py', *FILES], ids=lambda path: str(path.relative_to(ROOT))
)
def test_private_names_of_libraries_stand_in_one_file(path):
    private = list(private_names(path))
    if path == PACKAGE / 'private.py':
        text = ast.get_docstring(ast.parse(path.read_text()))
        for name in private:
            assert f'`{name.split(".")[-1].lstrip("_")}`' in text, 'each with its reason'
    else:
        assert not private, 'import it in keepaug/private.py, with the reason'
