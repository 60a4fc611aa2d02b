"""Stock's mixup and cutmix, where they must follow a method onto the device."""

import argparse
from collections.abc import Sequence
from typing import Any

from torch import nn

from keepaug.augment import BatchAugment, create_augment
from keepaug.methods.method import Method, Need, spell, typed

# Stock's mixers switched off.
MIXING_OFF = {'mixup': 0.0, 'cutmix': 0.0, 'cutmix_minmax': None}


def stock_mixers(args: argparse.Namespace) -> list[str]:
    """Which of stock's label mixers were asked for, by the names of their options."""
    on = {
        'mixup': typed(args, 'mixup') > 0,
        'cutmix': typed(args, 'cutmix') > 0,
        'cutmix_minmax': typed(args, 'cutmix_minmax') is not None,
    }
    return [name for name, is_on in on.items() if is_on]


def partner_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Stock's hyper-parameters that every mixer has."""
    return dict(prob=args.mixup_prob, mixing=args.mixup_mode, smoothing=args.smoothing)


def mixing_settings(args: argparse.Namespace, cutmix_alpha: float) -> dict[str, Any]:
    """Hyper-parameters of stock's label mixers, which stood down for ours."""
    return dict(
        mixup_alpha=args.taken_over.mixup,
        cutmix_alpha=cutmix_alpha,
        cutmix_minmax=args.taken_over.cutmix_minmax,
        switch_prob=args.mixup_switch_prob,
        **partner_settings(args),
    )


class StockMixingMethod(Method):
    """Mixes labels on the device, behind methods that must see whole images."""

    name = 'mixup and cutmix'
    augments = ('mixup', 'cutmix')
    uses_alpha_of = tuple(MIXING_OFF)
    needs = Need.IMAGES
    region = 'replaced'
    example = '--cutmix 1 --cutout'

    def is_on(self, args: argparse.Namespace) -> bool:
        return False  # by itself it stays in the loader

    def follows(self, others: Sequence[Method], args: argparse.Namespace) -> bool:
        mixes = bool(stock_mixers(args))
        moves = any(other.moves_mixing(args) for other in others)
        return mixes and moves and not any(other.mixes_labels(args) for other in others)

    def spelled(self, args: argparse.Namespace) -> str:
        return spell(stock_mixers(args)[0])

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return MIXING_OFF

    def mixes_labels(self, args: argparse.Namespace) -> bool:
        return True

    def build(self, args: argparse.Namespace, model: nn.Module) -> BatchAugment:
        settings = mixing_settings(args, args.taken_over.cutmix)
        cuts = settings['cutmix_alpha'] > 0 or settings['cutmix_minmax'] is not None
        return create_augment('cutmix' if cuts else 'mixup', num_classes=args.num_classes, **settings)
