"""Every recipe is a base and a delta: commands that our parser and checks accept, and a header that says whose."""

import re
from pathlib import Path

import pytest
import yaml

import train
from keepaug import options, prepare

ROOT = Path(__file__).parents[1]
# Studies are files of another kind; see tests/study.
RECIPES = sorted(path for path in (ROOT / 'hparams').rglob('*.yaml') if not {'studies', 'papers'} & set(path.parts))
BASES = [path for path in RECIPES if path.stem.startswith('base-')]
DELTAS = [path for path in RECIPES if path not in BASES]


def read_header(path):
    """The comment at the top as one line."""
    lines = [
        line.removeprefix('#').strip().removesuffix('\\')
        for line in path.read_text().splitlines()
        if line.startswith('#')
    ]
    return ' '.join(' '.join(lines).split())


def plain_commands(path):
    """Each `python train.py` of a header, as words."""
    return [
        line.split()
        for line in re.findall(r'python train\.py (.*?--data-dir DIR(?: --dataset-download)?)', read_header(path))
    ]


def commands(path):
    """What a header tells to run: the plain commands, alone and with the flags of each "add"."""
    added = re.findall(r'\badd ((?:--[\w-]+ \S+ ?)+)', read_header(path))
    return [[*command, *flags.split()] for command in plain_commands(path) for flags in ('', *added)]


def files_of(command):
    return [ROOT / word for flag, word in zip(command, command[1:]) if flag == '-c']


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_commands_of_the_header(recipe, caplog, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(recipe):
        args, _ = train._parse_args([*command, '--device', 'cpu'])
        options.check_stock(prepare(args))
        assert args.data_dir == 'DIR'
    assert not caplog.records  # an unknown key would be warned of


@pytest.mark.parametrize('recipe', DELTAS, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_a_delta_says_what_it_is_and_repeats_nothing_of_its_base(recipe):
    for word in ('Reproduces: ', 'Settings: ', 'Measured here: ', 'Use: '):
        assert word in read_header(recipe)
    assert commands(recipe)
    for command in commands(recipe):
        base, delta = files_of(command)
        assert base in BASES and base.parent == recipe.parent and delta == recipe
        settings = yaml.safe_load(base.read_text())
        assert not [key for key, value in yaml.safe_load(recipe.read_text()).items() if settings.get(key) == value]


@pytest.mark.parametrize('recipe', BASES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_a_base_is_marked_as_one_and_used(recipe):
    header = read_header(recipe)
    assert header.startswith('Base: ') and 'Alone: ' in header and 'Settings: ' in header
    assert commands(recipe) and all(files_of(command) == [recipe] for command in commands(recipe))
    assert any(recipe in files_of(command) for delta in DELTAS for command in commands(delta))
