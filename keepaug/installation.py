"""Where the scripts and the recipes stand, and how our commands are typed: in a checkout, or installed from a wheel."""

import itertools
import os
import sys
from pathlib import Path

__version__ = '0.1.0'
PACKAGE = Path(__file__).parent
# A wheel has train.py, validate.py and hparams/ inside the package; a checkout has them above it.
INSTALLED = (PACKAGE / 'train.py').is_file()
HOME = PACKAGE if INSTALLED else PACKAGE.parent
RECIPES = HOME / 'hparams'
SCRIPTS = ('train', 'validate')


def command(name: str) -> list[str]:
    """The words that start a command of ours, such as 'train' or 'export', from the top of a checkout or anywhere."""
    if INSTALLED:
        return [f'keepaug-{name}']
    return ['python', f'{name}.py'] if name in SCRIPTS else ['python', '-m', f'keepaug.{name}']


def program() -> str:
    """How this process was started, as it is typed: 'train.py', 'keepaug-plot' or 'python -m keepaug.plot'."""
    module = getattr(sys.modules['__main__'], '__spec__', None)
    if module is None or not module.name.startswith('keepaug'):  # as under `python -m pytest`
        return os.path.basename(sys.argv[0])
    return f'python -m {module.name.removesuffix(".__main__")}'


def is_command() -> bool:
    """Whether this process was started as a command of ours, and is not a program that uses us as a library."""
    script, following = (sys.argv or [''])[0], sys.orig_argv[1:]
    if script != '-m' and script not in following:  # a worker, which the command started and gave its own words
        return False
    script = os.path.basename(script)
    if script == '-m':  # as it is while Python imports the package of the module to run
        following = itertools.dropwhile(lambda word: not word.endswith('m'), following)
        script = next(itertools.islice(following, 1, None), '').replace('.', '-')
    return script.startswith('keepaug-')


def install_extra(name: str) -> str:
    """The command that installs what an extra of ours needs."""
    return f"pip install 'keepaug[{name}]'" if INSTALLED else f"pip install -e '.[{name}]'"


def find_recipe(path: str) -> Path | None:
    """A recipe that comes with us, by its path below `hparams/`, with that folder's name and `.yaml` or without."""
    for folder in RECIPES, HOME:
        for name in path, f'{path}.yaml':
            file = folder / name
            if file.is_file() and RECIPES in file.parents:
                return file
    return None


def list_recipes() -> list[str]:
    """Names of the recipes that come with us, such as 'cifar10/keepcutout'."""
    return sorted(path.relative_to(RECIPES).with_suffix('').as_posix() for path in RECIPES.rglob('*.yaml'))
