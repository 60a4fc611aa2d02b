"""Every recipe is a command line that our parser and checks accept, with a header that says where it comes from."""
from pathlib import Path

import pytest

import train
from keepaug import options, prepare

RECIPES = sorted((Path(__file__).parents[1] / 'hparams').rglob('*.yaml'))


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe, caplog):
    args, _ = train._parse_args(['/data', '--device', 'cpu', '--config', str(recipe)])
    options.check_stock(prepare(args))
    assert not caplog.records  # an unknown key would be warned of
    header = [line for line in recipe.read_text().splitlines() if line.startswith('#')]
    for word in ('Reproduces:', 'Settings:', 'Measured here:', recipe.name):
        assert any(word in line for line in header)


def test_there_are_recipes():
    assert RECIPES
