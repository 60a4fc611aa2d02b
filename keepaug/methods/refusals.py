"""What cannot be, as far as the flags tell: rows of (refused, sentence) that hold for every method alike."""

import argparse
import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from keepaug.datasets import EMBEDDED_DATASETS
from keepaug.methods.method import UNMET, Flag, Method, Need, Refusal, spell, typed
from keepaug.methods.registry import active_methods, all_methods
from keepaug.methods.stock_mixing import stock_mixers
from keepaug.ranges import any_of


def refusals(args: argparse.Namespace, defaults: Mapping[str, Any]) -> Iterator[Refusal]:
    """Everything that is refused of the methods, from the plainest fault to the combinations.

    Args:
        args: Complete options; see `keepaug.options.prepare`.
        defaults: What they are on an empty command line.
    """
    # What was typed first: methods may ask for it, and rely on its being one of the choices.
    for flag in all_flags().values():
        problem = flag.problem(args) if flag.is_given(args) else ''
        yield bool(problem), problem
    active = active_methods(args)
    for method in active:
        for flag in method.flags:
            problem = '' if flag.dest in method.ignores(args) else flag.problem(args)
            yield bool(problem), problem
    for method in active:
        yield from _stray_words(method, args)
    yield from _flags_without_effect(args, active)
    yield from _stock_without_effect(args, active, defaults)
    for method in active:
        for need, (is_unmet, sentence) in UNMET.items():
            yield (
                need in method.needed(args) and is_unmet(args),
                (sentence.format(flag=method.spelled(args), args=args)),
            )
    yield from _label_mixers(args, active)
    for method in active:
        yield from method.refuses(args)


def foreign_script_refusals(args: argparse.Namespace) -> Iterator[Refusal]:
    """What is refused in another person's script, whose loop and loader are not ours to change."""
    sentence = "{} needs keepaug's own train.py, but this script has another loop: drop it or train there."
    for method in all_methods():
        if Need.OWN_SCRIPT not in method.needs:
            continue
        for flag in method.flags:
            yield flag.is_given(args), sentence.format(flag.spell(args))
        if method.switch is None and method.is_on(args):  # by the value of another method's flag
            yield True, sentence.format(method.spelled(args))


def all_flags() -> dict[str, Flag]:
    """Every flag of every method, by the name of its option; those that several methods share once."""
    return {flag.dest: flag for method in all_methods() for flag in method.flags}


def _stray_words(method: Method, args: argparse.Namespace) -> Iterator[Refusal]:
    """A mistyped value of a flag that can stand alone is read as the data folder, and the flag stands alone."""
    word = args.data
    if word is None or os.path.exists(word):
        return
    needless = bool(args.data_dir) or args.dataset in EMBEDDED_DATASETS  # no folder can have been meant
    for flag in method.flags:
        if flag.alone is None or not flag.is_given(args):
            continue
        close = os.path.basename(word) == word and difflib.get_close_matches(word, map(str, flag.choices), n=1)
        yield bool(needless or close or not word), stray_word(word, flag)


def stray_word(word: str, flag: Flag) -> str:
    """The sentence of a word that can only be meant as the value of a flag, and is none."""
    values = any_of(flag.choices) if flag.choices else flag.values
    return f'{word or repr(word)} is neither a folder nor a value of {flag.option}: give {values}.'


def _flags_without_effect(args: argparse.Namespace, active: tuple[Method, ...]) -> Iterator[Refusal]:
    owners: dict[str, list[Method]] = {}
    for method in all_methods():
        for flag in method.settings:
            owners.setdefault(flag.dest, []).append(method)
    for name, flag in all_flags().items():
        if name not in owners or not flag.is_given(args):
            continue
        on = [method for method in owners[name] if method in active]
        ways = any_of(dict.fromkeys(method.way_on for method in owners[name]))
        yield not on, f'{flag.spell(args)} has no effect without {ways}: add it or drop {flag.option}.'
        reasons = [method.ignores(args).get(name, '') for method in on]
        yield bool(on) and all(reasons), f'{flag.spell(args)} has no effect {" and ".join(reasons)}: drop it.'


def _stock_without_effect(
    args: argparse.Namespace, active: tuple[Method, ...], defaults: Mapping[str, Any]
) -> Iterator[Refusal]:
    ours = all_flags()
    for method in active:
        for name, reason in method.ignores(args).items():
            value = typed(args, name)
            yield (
                name not in ours and value != defaults[name],
                (f'{spell(name, value)} has no effect {reason}: drop it.'),
            )


def _label_mixers(args: argparse.Namespace, active: tuple[Method, ...]) -> Iterator[Refusal]:
    mixers = [method for method in active if method.mixes_labels(args)]
    for other in mixers[1:]:
        yield True, f'{mixers[0].spelled(args)} and {other.spelled(args)} both mix labels: choose one.'
    for method in mixers:
        yield (
            args.mixup_mode == 'half',
            (
                f'--mixup-mode half works in the loader only, but {method.spelled(args)} mixes on the device: choose '
                'batch, pair or elem.'
            ),
        )
        for name in stock_mixers(args):
            yield (
                name not in method.uses_alpha_of,
                f'{method.spelled(args)} and {spell(name)} both mix labels: choose one.',
            )
