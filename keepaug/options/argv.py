"""The command line as stock timm reads it, on a parser that holds more flags than stock's."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from keepaug.methods.refusals import all_flags, stray_word


class StockFirst:
    """Stands in for `parser.parse_known_args`: rewrites the command line, then hands it to the real one.

    `parse_args` stands in for the other, which reads by it, and says more of a word that nothing takes; who asks for
    the words that nothing takes gets them.

    argparse would let a new flag change the meaning of an old command line in two ways: a prefix that was unique
    turns ambiguous, and a flag with an optional value takes the path of the data set that follows it. Stock here means
    the flags that stood on the parser when this was made; all others yield to them. A plain object rather than a
    closure, so that a deep copy of the parser takes it along.
    """

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser
        self.parse, self.parse_all = parser.parse_known_args, parser.parse_args
        self.is_whole = False  # whether a word that nothing takes is one too many
        self.stock = tuple(parser._option_string_actions)

    def __call__(
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        words = self.rewrite(sys.argv[1:] if args is None else args)
        known, unknown = self.parse(words, namespace)
        if self.is_whole and any(not word.startswith('-') for word in unknown):
            self._explain_stray(words)
        return known, unknown

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        self.is_whole = True
        try:
            return self.parse_all(args, namespace)
        finally:
            self.is_whole = False

    def _explain_stray(self, words: Sequence[str]) -> None:
        """Says which of too many words is no folder, where it stands behind a flag that may or may not have a value."""
        flags = {f'{flag.option}={flag.alone}': flag for flag in all_flags().values() if flag.alone is not None}
        for word, follower in _pairs(words):
            if word in flags and follower and not follower.startswith('-') and not os.path.exists(follower):
                self.parser.error(stray_word(follower, flags[word]))

    @property
    def newer(self) -> list[argparse.Action]:
        """The arguments added since: ours, and whatever else came after stock's."""
        flags = [action for action in self.parser._actions if action.option_strings]
        return [action for action in flags if action.option_strings[0] not in self.stock]

    def rewrite(self, args: Sequence[str]) -> list[str]:
        """The same command line, with nothing left in it that argparse would read otherwise than stock does."""
        words = list(args)
        end = words.index('--') if '--' in words else len(words)
        spelt = [self._spell(word, follower) for word, follower in _pairs(words[:end])]
        return self._split_lists(spelt) + words[end:]

    def without(self, args: Sequence[str], *flags: str) -> list[str]:
        """The same command line as it was typed, less some flags, each with its value if it takes one."""
        words = list(args)
        end = words.index('--') if '--' in words else len(words)
        kept, index = [], 0
        while index < end:
            name, equals, value = words[index].partition('=')
            flag = self._flag(name, value if equals else (words + [None])[index + 1]) if name[:2] == '--' else name
            if flag not in flags:
                kept.append(words[index])
            elif not equals and self.parser._option_string_actions[flag].nargs != 0:
                index += 1
            index += 1
        return kept + words[end:]

    def _spell(self, word: str, follower: str | None) -> str:
        if not word.startswith('--'):
            return word
        name, equals, value = word.partition('=')
        flag = self._flag(name, value if equals else follower)
        action = self.parser._option_string_actions.get(flag)
        if equals or action is None or flag in self.stock or action.nargs != '?' or _reads(action, follower):
            return flag + equals + value
        return f'{flag}={action.const}'

    def _split_lists(self, words: Sequence[str]) -> list[str]:
        """Gives every value of a newer flag's list of choices the flag anew, so that the list ends where they end."""
        lists = {
            flag: action
            for action in self.newer
            if action.nargs == '+' and action.choices
            for flag in action.option_strings
        }
        split, flag = [], None
        for word, follower in _pairs(words):
            if flag is not None and _reads(lists[flag], word):
                split.append(f'{flag}={word}')
                continue
            flag = word if word in lists and _reads(lists[word], follower) else None
            if flag is None:
                split.append(word)
        return split

    def _flag(self, name: str, value: str | None) -> str:
        """The full flag that `name` stands for, given the value that follows it; `name` itself where that is open."""
        actions = self.parser._option_string_actions
        if name in self.stock or not self.parser.allow_abbrev:
            return name
        matches = [flag for flag in self.stock if flag.startswith(name)]
        if name in actions:
            # A newer flag may be spelled like a prefix of a stock flag; the value behind it tells which one is meant.
            shadows = len(matches) == 1 and _reads(actions[matches[0]], value) and not _reads(actions[name], value)
            return matches[0] if shadows else name
        matches = matches or [flag for flag in actions if flag.startswith(name)]
        return matches[0] if len(matches) == 1 else name


def stock_first(parser: argparse.ArgumentParser) -> StockFirst:
    """Makes the flags now on `parser` win over all that are added later; the first call counts."""
    own = vars(parser)  # it takes the place of the method of this parser alone
    if 'parse_known_args' not in own:
        reader = own['parse_known_args'] = StockFirst(parser)
        own['parse_args'] = reader.parse_args
    return own['parse_known_args']


def typed_options(parser: argparse.ArgumentParser, args: Sequence[str] | None = None) -> frozenset[str]:
    """Names of the options that a command line gives, whatever their values."""
    unset = object()
    # What adds to a list must begin with one; such an option counts as given where anything is in it.
    marks = {
        action.dest: None if action.nargs in ('+', '*') else unset
        for action in parser._actions
        if action.option_strings
    }
    given = vars(parser.parse_args(args, argparse.Namespace(**marks)))
    return frozenset(name for name in marks if given.get(name) is not marks[name])


def _pairs(words: Sequence[str]) -> Iterable[tuple[str, str | None]]:
    """Each word with the one behind it."""
    return zip(words, [*words[1:], None])


def _reads(action: argparse.Action, text: str | None) -> bool:
    """Whether `text` is a legal value of the argument."""
    if text is None or action.nargs == 0:
        return False
    try:
        value = action.type(text) if callable(action.type) else text
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        return False
    return action.choices is None or value in action.choices
