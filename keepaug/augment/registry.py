"""Augmentations by name, as timm keeps models by name."""

import inspect
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

    All take `model`, the bare model, and `num_classes`. What mixes labels (cutmix, mixup, cutmix-variant,
    attentive-cutmix, feature-cutmix, manifold-mixup, and keep-cut in mode 'cutmix') also takes `prob`, `mixing` and
    `smoothing`. The class of each says what its hyper-parameters mean (`help(type(augment))`):

    * attentive-cutmix: patches, teacher, grid, teacher_size, normalisation, teacher_normalisation
    * cutmix, mixup: mixup_alpha, cutmix_alpha, cutmix_minmax, switch_prob
    * cutmix-variant: variant, fixed_size, cutmix_alpha, and what cutmix takes
    * cutout: size, holes, prob
    * feature-cutmix, manifold-mixup: stages, alpha
    * grid-mask: smallest, largest, keep, prob, ramp
    * joint-occlusion: mode, grid, keep_patch, keep_image, holes, size, layer, jitter, only
    * keep-cut: mode, fill, size, tau, prob, saliency, low_scale, maps, max_count, windows, and in mode 'cutmix' what
      cutmix takes
    * keep-paste: size, tau, prob, saliency, low_scale, reprob, remode, recount; takes two rows per image

    Calls draw from torch's default streams; with `generator=` they draw from that alone and leave torch's untouched.

    Args:
        name: One of `list_augments()`.
        **kwargs: Its hyper-parameters.

    Raises:
        ValueError: The name is unknown, or a hyper-parameter is out of range.
        TypeError: A hyper-parameter is unknown.
    """
    if name not in _AUGMENTS:
        raise ValueError(f'There is no augmentation {name!r}; there are {", ".join(list_augments())}.')
    known = hyper_parameters(name)
    for given in kwargs:
        if given not in known:
            raise TypeError(f'{name} has no hyper-parameter {given!r}; it has {", ".join(known)}.')
    return _AUGMENTS[name](**kwargs)


def hyper_parameters(name: str) -> list[str]:
    """Names of all hyper-parameters that an augmentation takes, its own first."""
    names: dict[str, None] = {}
    classes = [_AUGMENTS[name]]
    while classes:
        augment = classes.pop(0)
        parameters = inspect.signature(augment.__init__).parameters.values()
        names.update((each.name, None) for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD)
        if any(each.kind == each.VAR_KEYWORD for each in parameters):
            classes += [*augment.__bases__, *filter(None, [augment.takes_too])]
    names.pop('self')
    return list(names)
