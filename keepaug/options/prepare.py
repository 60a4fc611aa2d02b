"""From parsed options to complete ones: checked, and with stock stood down where a method takes its place."""

import argparse
import copy
import functools
import numbers
import os
from collections.abc import Iterable
from typing import Any

from keepaug.files.checkpoints import check_checkpoint
from keepaug.methods.method import Refusal
from keepaug.methods.refusals import all_flags, foreign_script_refusals, refusals
from keepaug.methods.registry import active_methods
from keepaug.models.described import describe, described_name
from keepaug.options.config import text_options
from keepaug.options.newer import name_loss
from keepaug.options.parse import create_parser

# The one flag that only our own script has: another person's parser is known by its absence.
OWN_SCRIPT_FLAG = 'check'


def prepare(args: argparse.Namespace) -> argparse.Namespace:
    """Checks the flags of keepaug against each other and stock's, and stands stock down where ours take over.

    Args:
        args: Options of any parser, or a plain namespace. They are left as they are.

    Returns:
        Complete options: every one of stock's and ours has a value, whoever parsed them. What a method does in stock's
        place is switched off there; `taken_over` holds what was typed, by the same names, and nothing where nothing was
        taken. To prepare prepared options changes nothing.

    Raises:
        ValueError: One sentence for the user.
    """
    prepared = complete(args)
    prepared.typed = vars(args).get('typed', frozenset())
    if not hasattr(args, OWN_SCRIPT_FLAG):
        refuse(foreign_script_refusals(prepared))
    refuse(refusals(prepared, defaults()))
    del prepared.typed  # of the command line, not of the run
    for method in active_methods(prepared):
        for name, off in method.takes_over(prepared).items():
            vars(prepared.taken_over).setdefault(name, vars(prepared)[name])
            setattr(prepared, name, off)
    return prepared


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """A copy of options with a value for every one of stock's and ours, and with what methods took given back.

    A switch with an optional value may be `True`, as a YAML file or a plain namespace has it, for the flag alone. What
    is read as text may be a number there, such as an experiment called 5, and becomes text.
    """
    given = {**vars(args), **vars(vars(args).get('taken_over', argparse.Namespace()))}
    completed = argparse.Namespace(**{**copy.deepcopy(defaults()), **given})
    completed.taken_over = argparse.Namespace()
    vars(completed).pop('typed', None)
    for flag in all_flags().values():
        value = vars(completed)[flag.dest]
        if flag.alone is not None and isinstance(value, bool):
            setattr(completed, flag.dest, flag.alone if value else flag.unset)
    for name in _text_options(tuple(all_flags())):
        if isinstance(value := vars(completed)[name], numbers.Real):
            setattr(completed, name, str(value) if value is not False else '')
    name_loss(completed)
    name_teacher(completed)
    return completed


def name_teacher(args: argparse.Namespace) -> None:
    """Fills `args.kd_model_name`, where it is unset, from what the file of `--kd-pretrained-path` says of itself.

    Raises:
        ValueError: The file cannot be read.
    """
    path, flag = args.kd_pretrained_path, '--kd-pretrained-path'
    if path and not args.kd_model_name and os.path.exists(path):
        described = describe(check_checkpoint(path, flag, averaged=True), path, flag)
        args.kd_model_name = described_name(described, f'{flag} {path}', '--kd-model-name') or None


def defaults() -> dict[str, Any]:
    """The options of an empty command line, by name; do not change them."""
    return _defaults(tuple(all_flags()))


@functools.cache
def _defaults(flags: tuple[str, ...]) -> dict[str, Any]:
    options = vars(create_parser().parse_args([]))
    options.pop(OWN_SCRIPT_FLAG)
    return options


@functools.cache
def _text_options(flags: tuple[str, ...]) -> tuple[str, ...]:
    """Options of one value that is text."""
    return text_options(create_parser())


def refuse(rows: Iterable[Refusal]) -> None:
    """Raises the first sentence whose row says that something is refused.

    Raises:
        ValueError: There is one.
    """
    for refused, sentence in rows:
        if refused:
            raise ValueError(sentence)
