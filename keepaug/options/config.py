"""YAML files of defaults for a parser: keys are argument names with underscores, values are checked like typed ones."""

import argparse
import contextlib
import difflib
import logging
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

_logger = logging.getLogger('train')


def read_config(path: str, flag: str = '--config') -> dict[str, Any]:
    """The mapping in a YAML file, which the message calls by its flag; an empty file is an empty mapping.

    Raises:
        ValueError: the file is missing, unreadable, no YAML, or holds something else; the message is for the user.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise ValueError(f'{flag} {path} cannot be read ({error.strerror}): give the path of a YAML file.') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{flag} {path} is not a text file in UTF-8: give the path of a YAML file.') from error
    except yaml.YAMLError as error:
        raise ValueError(f'{flag} {path} is not YAML{_place(error)}: write one "key: value" per line.') from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(
            f'{flag} {path} holds a {type(content).__name__}, not a mapping: write one "key: value" per line.'
        )
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        raise ValueError(
            f'{flag} {path} has the key {strange[0]!r}, which is no text: '
            'write the name of an argument, in quotes if need be.'
        )
    return content


def read_defaults(parser: argparse.ArgumentParser, paths: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The defaults that YAML files set, as `(known, unknown)`: converted values of arguments, and other keys.

    A later file wins key by key, and its value takes the place of the whole earlier one, lists and mappings too; `null`
    brings the built-in default back. Unknown keys are named in a warning, for a slip of the pen looks just like them.

    Raises:
        ValueError: as `read_config`, or a value does not fit its argument.
    """
    actions = {action.dest: action for action in parser._actions if action.default is not argparse.SUPPRESS}
    known, unknown = {}, {}
    for path in paths:
        for key, value in read_config(path).items():
            if key in actions:
                try:
                    known[key] = convert(actions[key], value)
                except ValueError as error:
                    raise ValueError(f'--config {path} sets {key} to {value!r}: {error}.') from error
            else:
                unknown[key] = value
                nearest = difflib.get_close_matches(key, actions, n=1)
                hint = f', the nearest one is {nearest[0]}' if nearest else ''
                _logger.warning(f'{path}: no argument is called {key}{hint}; it is recorded, but nothing reads it.')
    return known, unknown


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
        return None if getattr(action, 'none_is_typed', False) else action.default
    if action.nargs == 0:
        return _expect(isinstance(value, bool), value, 'write true or false')
    if isinstance(action.default, dict):
        return _expect(isinstance(value, dict), value, 'write a mapping such as {name: value}')
    if action.nargs == '?' and action.const is not None and isinstance(value, bool):
        return action.const if value else None
    if action.nargs in (None, '?'):
        return _convert_item(action, value)
    length = action.nargs if isinstance(action.nargs, int) else None
    fits = isinstance(value, list) and length in (None, len(value))
    _expect(fits, value, f'write a list of {length} values' if length else 'write a list such as [a, b]')
    return [_convert_item(action, item) for item in value]


def text_options(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """Names of the arguments that take one value, and any text as that."""
    return tuple(
        action.dest
        for action in parser._actions
        if action.nargs in (None, '?') and action.type in (None, str) and isinstance(action.default, (str, type(None)))
    )


def _convert_item(action: argparse.Action, value: Any) -> Any:
    numeric = action.type not in (None, str)
    way_out = {int: 'write a whole number'}.get(action.type, 'write a number') if numeric else 'write text, in quotes'
    if numeric and isinstance(value, str):
        try:
            value = action.type(value)
        except ValueError as error:
            raise ValueError(way_out) from error
    else:
        # Stock hands proper numbers on as they are, to text options too.
        number = isinstance(value, numbers.Real) and not (numeric and isinstance(value, bool))
        _expect(number or not numeric and isinstance(value, str), value, way_out)
    if action.choices is not None:
        _expect(value in action.choices, value, f'choose {" or ".join(map(str, action.choices))}')
    return value


def _expect(fits: bool, value: Any, way_out: str) -> Any:
    """`value` itself where it fits."""
    if not fits:
        raise ValueError(way_out)
    return value


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, 'problem_mark', None)
    return f' (line {mark.line + 1})' if mark else ''
