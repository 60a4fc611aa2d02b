"""The controls of the CutMix paper (Table 8): `--cutmix-variant`."""

import argparse
from collections.abc import Iterator
from typing import Any

from torch import nn

from keepaug.augment import CutMixVariant
from keepaug.methods.method import Flag, Method, Refusal, is_typed_zero
from keepaug.methods.stock_mixing import MIXING_OFF, partner_settings

PAPERS_FIXED_SIZE = 16


class CutMixVariantMethod(Method):
    """CutMix with one thing done otherwise."""

    name = 'cutmix-variant'
    title = 'cutmix with one thing changed'
    switch = Flag(
        '--cutmix-variant',
        parameter='variant',
        type=str,
        choices=CutMixVariant.variants,
        help='change one thing about cutmix, as a control',
    )
    settings = (
        Flag(
            '--cutmix-fixed-size',
            parameter='fixed_size',
            type=int,
            default=PAPERS_FIXED_SIZE,
            metavar='PX',
            range=CutMixVariant.ranges['fixed_size'],
            in_image=True,
            help='side of the region, for fixed',
        ),
    )
    augments = ('cutmix-variant',)
    uses_alpha_of = ('cutmix',)
    region = 'replaced'
    example = '--cutmix-variant center-gaussian'

    def mixes_labels(self, args: argparse.Namespace) -> bool:
        return True

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return MIXING_OFF

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        if args.cutmix_variant == 'fixed':
            return {}
        return {'cutmix_fixed_size': f'with --cutmix-variant {args.cutmix_variant}, which draws its size'}

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        yield (
            is_typed_zero(args, 'cutmix'),
            f'--cutmix 0 switches CutMix off, and {self.spelled(args)} is CutMix: drop one of the two.',
        )

    def build(self, args: argparse.Namespace, model: nn.Module) -> CutMixVariant:
        return CutMixVariant(
            num_classes=args.num_classes,
            variant=args.cutmix_variant,
            fixed_size=args.cutmix_fixed_size,
            cutmix_alpha=args.taken_over.cutmix or 1.0,
            **partner_settings(args),
        )
