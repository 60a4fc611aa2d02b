"""Augmentations by name, as timm keeps models by name."""

from collections.abc import Callable
from typing import Any, TypeVar

from keepaug.augment.base import BatchAugment

_AUGMENTS: dict[str, type[BatchAugment]] = {}
Augment = TypeVar('Augment', bound=type[BatchAugment])


def register_augment(name: str) -> Callable[[Augment], Augment]:
    """Class decorator that makes an augmentation known under a name.

    The class takes its hyper-parameters as keywords, `model` and `num_classes` among them, and follows the call
    protocol of `BatchAugment`.

    Raises:
        ValueError: The name is taken.
    """

    def register(augment: Augment) -> Augment:
        if name in _AUGMENTS:
            raise ValueError(f'The augmentation {name!r} is already registered, by {_AUGMENTS[name].__name__}.')
        _AUGMENTS[name] = augment
        augment.name = name
        return augment

    return register


def list_augments() -> list[str]:
    """Names of all registered augmentations, sorted."""
    return sorted(_AUGMENTS)


def create_augment(name: str, **kwargs: Any) -> BatchAugment:
    """Creates an augmentation by name.

    Args:
        name: One of `list_augments()`.
        **kwargs: Its hyper-parameters; `model` and `num_classes` are taken by all.

    Raises:
        ValueError: The name is unknown, or a hyper-parameter is out of range.
        TypeError: A hyper-parameter is unknown.
    """
    if name not in _AUGMENTS:
        raise ValueError(f'There is no augmentation {name!r}; there are {", ".join(list_augments())}.')
    return _AUGMENTS[name](**kwargs)
