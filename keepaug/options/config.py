"""YAML files of defaults for a parser: keys are argument names with underscores, values are checked like typed ones."""

import argparse
import contextlib
import difflib
import numbers
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from keepaug.files.plain_yaml import MOST_BYTES, parse_yaml
from keepaug.installation import find_recipe, list_recipes
from keepaug.methods.refusals import all_flags
from keepaug.ranges import any_of


def read_config(path: str, flag: str = '--config', twice: list[str] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, which the message calls by its flag.

    Args:
        path: The file.
        flag: Its flag.
        twice: See `parse_yaml`.

    Raises:
        ValueError: the file is missing, unreadable, no YAML, or holds something else; the message is for the user.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = parse_yaml(file.read(MOST_BYTES + 1), twice)
    except OSError as error:
        raise ValueError(f'{flag} {path} cannot be read ({error.strerror}): give the path of a YAML file.') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{flag} {path} is not a text file in UTF-8: give the path of a YAML file.') from error
    except yaml.YAMLError as error:
        way_out = 'indent by spaces, not by tabs' if _is_of_tab(error) else 'write one "key: value" per line'
        raise ValueError(f'{flag} {path} is not YAML{_place(error)}: {way_out}.') from error
    except ValueError as error:
        raise ValueError(f'{flag} {path} {error}: write one "key: value" per line.') from error
    if content is None:
        raise ValueError(f'{flag} {path} is empty: write one "key: value" per line, or drop it.')
    if not isinstance(content, dict):
        raise ValueError(
            f'{flag} {path} holds a {type(content).__name__}, not a mapping: write one "key: value" per line.'
        )
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        raise ValueError(
            f'{flag} {path} has the key {shown(strange[0])}, which is no text: '
            'write the name of an argument, in quotes if need be.'
        )
    return content


def find_config(path: str, flag: str = '--config', folders: tuple[str, ...] = ('',)) -> str:
    """The path itself, or where no such file is there the recipe of ours that it names, such as cifar10/keepcutout.

    Args:
        path: As typed.
        flag: What the message calls it.
        folders: Starts of the names of those recipes that may be meant.

    Raises:
        ValueError: There is neither.
    """
    if os.path.exists(path):
        return path
    recipe = find_recipe(path)
    held = [name for name in list_recipes() if name.startswith(f'{path.strip("/")}/')]
    if recipe is None and held:
        raise ValueError(f'{flag} {path} is a folder of recipes: name one, such as {any_of(held[:4])}.')
    if recipe is None:
        raise ValueError(
            f'{flag} {path or repr(path)} cannot be read (No such file or directory): give the path of a YAML file, or '
            f'a recipe such as {_nearest_recipe(path, folders)}.'
        )
    return str(recipe)


def _nearest_recipe(path: str, folders: tuple[str, ...]) -> str:
    """The recipe whose name, or at least its last part, looks most like a path."""
    name, names = path.removesuffix('.yaml')[:100], [name for name in list_recipes() if name.startswith(folders)]
    if nearest := difflib.get_close_matches(name, names, n=1):
        return nearest[0]
    stems = {recipe.rpartition('/')[2]: recipe for recipe in reversed(names)}
    nearest = difflib.get_close_matches(name.rpartition('/')[2], stems, n=1)
    return stems[nearest[0]] if nearest else names[0]


class Remark(NamedTuple):
    """What a run takes from a file as stock's does, and tells.

    Attributes:
        sentence: What it is, without its end.
        taken: How it is taken, as the end of the sentence.
        way_out: What to do instead, as another end.
    """

    sentence: str
    taken: str
    way_out: str


def read_defaults(
    parser: argparse.ArgumentParser, paths: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any], list[Remark]]:
    """The defaults that YAML files set: converted values of arguments, other keys, and what is to be said of them.

    A later file wins key by key, and its value takes the place of the whole earlier one, lists and mappings too; `null`
    brings the built-in default back. Stock's script takes unknown keys, but a slip of the pen looks just like them.

    Raises:
        ValueError: as `read_config`, or a value does not fit its argument.
    """
    actions = {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}
    known, unknown, told = {}, {}, []
    for path in paths:
        twice: list[str] = []
        content = read_config(find_config(path), twice=twice)
        told += [Remark(f'{path} {said}', 'the last one counts', 'drop one of the two') for said in twice]
        for key, value in content.items():
            if key in actions:
                try:
                    known[key] = convert(actions[key], value)
                except ValueError as error:
                    raise ValueError(f'--config {path} sets {key} to {shown(value)}: {error}.') from error
                continue
            if '-' in key and (meant := key.replace('-', '_')) in all_flags():  # ours, which no stock file has
                raise ValueError(f'--config {path} has the key {key[:100]}, which nothing reads: write {meant}.')
            nearest = difflib.get_close_matches(key[:100], actions, n=1)
            hint = f', the nearest one is {nearest[0]}' if nearest else ''
            sentence = f'{path}: no argument is called {key[:100]}{hint}'
            if key.startswith('__') or key == 'taken_over':  # which would change the arguments themselves
                raise ValueError(f'--config {sentence}; drop it.')
            unknown[key] = value
            told.append(
                Remark(sentence, 'it is recorded, but nothing reads it', 'write the name of an argument, or drop it')
            )
    return known, unknown, told


@contextlib.contextmanager
def replaced_defaults(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> Iterator[None]:
    """Gives the parser other defaults for a while, so that one file does not leak into the next parse."""
    before = [(action, action.default) for action in parser._actions if action.dest in defaults]
    try:
        for action, _ in before:
            action.default = defaults[action.dest]
        yield
    finally:
        for action, default in before:
            action.default = default


def convert(action: argparse.Action, value: Any) -> Any:
    """A YAML value as the argument would have stored it. `None` stands for unset: the built-in default.

    YAML 1.1 takes `1e-3` for text, so text is put through the argument's type, inside lists too.

    Raises:
        ValueError: the value does not fit; the message says what to write.
    """
    if value is None:
        # Few arguments take None beside a default of another kind, as args.yaml records it.
        flag = all_flags().get(action.dest)
        return None if flag is not None and flag.none_is_typed else action.default
    if action.nargs == 0:
        return _expect(isinstance(value, bool), value, 'write true or false')
    if isinstance(action.default, dict):
        return _expect(
            isinstance(value, dict) and all(isinstance(name, str) for name in value) and _is_plain(value),
            value,
            'write a mapping such as {name: value}',
        )
    if action.nargs == '?' and action.const is not None and isinstance(value, bool):
        return action.const if value else None
    if action.nargs in (None, '?'):
        return _convert_item(action, value)
    length = action.nargs if isinstance(action.nargs, int) else None
    fits = isinstance(value, list) and length in (None, len(value))
    _expect(fits, value, f'write a list of {length} values' if length else 'write a list such as [a, b]')
    _expect(value or action.nargs != '+' or action.default == [], value, 'write at least one value, or null for none')
    return [_convert_item(action, item) for item in value]


def text_options(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """Names of the arguments that take one value, and any text as that."""
    return tuple(
        action.dest
        for action in parser._actions
        if action.nargs in (None, '?') and action.type in (None, str) and isinstance(action.default, (str, type(None)))
    )


def _convert_item(action: argparse.Action, value: Any) -> Any:
    if action.type in (None, str):
        value = _as_text(value)
    else:
        whole = action.type is int
        way_out = 'write a whole number' if whole else 'write a number'
        if isinstance(value, str):
            convert: Any = action.type
            try:
                value = convert(value)
            except (ValueError, OverflowError) as error:
                raise ValueError(way_out) from error
        else:
            # Stock hands proper numbers on as they are.
            number = isinstance(value, int if whole else numbers.Real) and not isinstance(value, bool)
            _expect(number and _is_small(value), value, way_out)
    if action.choices is not None:
        _expect(value in action.choices, value, f'choose {" or ".join(map(str, action.choices))}')
    return value


def _as_text(value: Any) -> str:
    """A value as it would have been typed; a fraction has several spellings, and yes and no are no text to YAML."""
    if value is False:  # as stock reads `aa: off`
        return ''
    whole = isinstance(value, int) and not isinstance(value, bool) and _is_small(value)
    return str(value) if whole else _expect(isinstance(value, str), value, 'write text, in quotes')


def _is_small(value: float) -> bool:
    """Whether a number is one that a float can hold, too."""
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether a value is made of what can be typed: text, numbers, lists and mappings."""
    left, seen = [value], set()
    while left:
        value = left.pop()
        if isinstance(value, (dict, list, tuple)):
            if id(value) not in seen:
                seen.add(id(value))
                left += [*value, *value.values()] if isinstance(value, dict) else value
        elif not (value is None or isinstance(value, (str, float)) or isinstance(value, int) and _is_small(value)):
            return False
    return True


def shown(value: Any) -> str:
    """A value of a file in a sentence, cut short where it is long."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = form.maxlong = 100
    return form.repr(value)


def _expect(fits: bool, value: Any, way_out: str) -> Any:
    """`value` itself where it fits."""
    if not fits:
        raise ValueError(way_out)
    return value


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, 'problem_mark', None)
    return f' (line {mark.line + 1})' if mark else ''


def _is_of_tab(error: yaml.YAMLError) -> bool:
    return r"'\t'" in (getattr(error, 'problem', None) or '')
