"""Which values a number may take: written once, told in one sentence wherever the number comes from."""

import math
import numbers
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any


class HyperParameterError(ValueError):
    """A hyper-parameter that cannot be used.

    Whoever took it from somewhere else, as the command line does, tells it under the name it has there (`named`).

    Args:
        parameter: Its name.
        problem: What is wrong, and the way out, to follow the name: 'must be at least 1 pixel'.
        value: What was given.
    """

    def __init__(self, parameter: str, problem: str, value: Any):
        self.parameter = parameter
        self.problem = problem
        self.value = value
        super().__init__(self.named(parameter))

    def named(self, name: str) -> str:
        """The sentence, with the parameter under a name of the reader's."""
        got = '' if self.value is None else f', got {self.value}'
        return f'{name} {self.problem}{got}.'


@dataclass(frozen=True)
class Range:
    """The values a number may take; `None`, which stands for unset, lies in every range.

    Attributes:
        least: Smallest value; None for none.
        most: Largest value; None for none.
        above: Value that it must exceed; None for none.
        below: Value that it must stay under; None for none.
        whole: Whether it must be a whole number.
        unit: What it counts, in the singular, such as 'pixel'.
        instead: What may be given in place of a number, with its meaning, such as 'none to draw blindly'.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    unit: str = ''
    instead: str = ''

    def problem(self, value: Any) -> str:
        """What is wrong with a value, to follow its name; empty where nothing is."""
        if value is None or self.holds(value):
            return ''
        kind = ''
        if self.whole and not isinstance(value, numbers.Integral):
            kind = 'a whole number'
        elif not self.words():
            kind = 'a finite number'
        instead = f', or {self.instead}' if self.instead else ''
        return f'must be {kind}{", " if kind and self.words() else ""}{self.words()}{instead}'

    def words(self) -> str:
        """The range in words: 'at least 1 pixel', 'between 0 and 1', 'above 0 and at most 1'."""
        if self.least is not None and self.most is not None:
            return f'between {self.least:g} and {self._counted(self.most)}'
        bounds = (('at least', self.least), ('above', self.above), ('at most', self.most), ('below', self.below))
        return ' and '.join(f'{word} {self._counted(bound)}' for word, bound in bounds if bound is not None)

    def check(self, parameter: str, value: Any) -> Any:
        """The value, if it lies in the range.

        Raises:
            HyperParameterError: It does not.
        """
        problem = self.problem(value)
        if problem:
            raise HyperParameterError(parameter, problem, value)
        return value

    def holds(self, value: Any) -> bool:
        """Whether a value is a number in the range."""
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        whole = isinstance(value, numbers.Integral)
        if not number or not (whole or math.isfinite(value)):  # whole numbers may exceed a float
            return False
        return (
            (whole or not self.whole)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _counted(self, bound: float) -> str:
        ending = 'es' if self.unit.endswith(('s', 'tch')) else 's'  # classes and batches, but epochs
        return f'{bound:.12g} {self.unit}{ending if self.unit and bound != 1 else ""}'.rstrip()


PIXELS = Range(least=1, whole=True, unit='pixel')
PROBABILITY = Range(least=0, most=1)
CHANCE = Range(above=0, most=1)  # a probability of what would else never happen
COUNT = Range(least=1, whole=True)
# Cells along each edge of an image, or squares in it: more than any image has pixels along an edge are a slip of the
# pen, and memory by the terabyte.
CELLS = Range(least=1, most=1024, whole=True)


def any_of(names: Iterable[object]) -> str:
    """Names as a choice: 'a, b or c'."""
    *first, last = map(str, names)
    return f'{", ".join(first)} or {last}' if first else last


def choice_problem(value: Any, choices: Collection[object]) -> str:
    """What is wrong with a name, to follow that of its parameter; empty where it is one of the choices."""
    return '' if value in choices else f'must be {any_of(choices)}'


def check_choice(parameter: str, value: Any, choices: Collection[object]) -> Any:
    """The value, if it is one of the choices.

    Raises:
        HyperParameterError: It is not.
    """
    problem = choice_problem(value, choices)
    if problem:
        raise HyperParameterError(parameter, problem, value)
    return value
