"""The methods there are, in the order in which a batch meets them."""

import argparse

from keepaug.methods.method import Method

_METHODS: list[Method] = []


def register_method(method: Method, after: str | None = None) -> Method:
    """Makes a method known to all that lists methods.

    Args:
        method: The method.
        after: Name of the method that a batch meets before it; None for behind all that are registered.

    Raises:
        ValueError: The name is taken, or there is no method to stand behind.
    """
    names = [each.name for each in _METHODS]
    if method.name in names:
        raise ValueError(f'The method {method.name!r} is already registered, by {type(method).__name__}.')
    if after is not None and after not in names:
        raise ValueError(f'There is no method {after!r} to come after; there are {", ".join(names)}.')
    _METHODS.insert(len(names) if after is None else names.index(after) + 1, method)
    return method


def unregister_method(name: str) -> None:
    """Forgets a method, as a test does with its own."""
    _METHODS[:] = [method for method in _METHODS if method.name != name]


def all_methods() -> tuple[Method, ...]:
    """Every method, in the order in which a batch meets them."""
    return tuple(_METHODS)


def active_methods(args: argparse.Namespace) -> tuple[Method, ...]:
    """The methods that the options turn on, in the order in which a batch meets them.

    Args:
        args: Complete options; see `keepaug.options.prepare`.
    """
    by_themselves = [method for method in _METHODS if method.is_on(args)]
    return tuple(method for method in _METHODS if method in by_themselves or method.follows(by_themselves, args))


def method_of(augment_name: str) -> Method:
    """The method that builds an augmentation of this name; a plain one that says little where nobody does."""
    for method in _METHODS:
        if augment_name and augment_name in (method.name, *method.augments):
            return method
    return Method()
