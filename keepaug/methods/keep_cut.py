"""Selective cut (KeepAugment, Algorithm 1a): `--keep-cut`."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from keepaug.augment import KeepCut
from keepaug.augment.recycled import RECYCLED, SaliencyMaps
from keepaug.methods.keep_region import KeepMethod, fill_of_erasing
from keepaug.methods.method import Flag, Refusal, is_typed_zero, spell, typed
from keepaug.methods.stock_mixing import MIXING_OFF, mixing_settings


class KeepCutMethod(KeepMethod):
    """Removes a region of low saliency, or puts another image there."""

    name = 'keep-cut'
    title = 'keep-cut: remove only what carries little saliency'
    switch = Flag(
        '--keep-cut',
        parameter='mode',
        type=str,
        alone='cutout',
        choices=KeepCut.modes,
        help='turn it on; cutout (without a value): one square set to the mean colour; erase: random erasing with '
        'its own flags; cutmix: a region of another image, with the flags of --cutmix',
    )
    settings = (
        *KeepMethod.settings,
        Flag(
            '--keep-windows',
            parameter='windows',
            type=str,
            default='inside',
            choices=KeepCut.window_kinds,
            help='which windows to draw from: inside: those inside the image; overflow: as large as what plain '
            'Cutout or CutMix removes after the border has cut it off, and with --keep-tau none exactly plain '
            'Cutout or CutMix',
        ),
    )
    augments = ('keep-cut',)
    uses_alpha_of = ('mixup', 'cutmix', 'cutmix_minmax')
    example = '--keep-cut'

    def mixes_labels(self, args: argparse.Namespace) -> bool:
        return args.keep_cut == 'cutmix'

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        taken: dict[str, dict[str, Any]] = {'erase': {'reprob': 0.0}, 'cutmix': MIXING_OFF}
        return taken.get(args.keep_cut, {})

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        ignored = super().ignores(args)
        if self.draws_size(args):
            ignored['keep_size'] = f'with --keep-cut {args.keep_cut}, which draws its size'
        if args.keep_cut == 'erase':
            ignored['keep_windows'] = 'with --keep-cut erase, which draws its own sizes'
            ignored['resplit'] = 'with --keep-cut erase, which cuts every image'
        if args.keep_cut == 'cutmix' and typed(args, 'cutmix_minmax') is not None:
            ignored['keep_windows'] = 'beside --cutmix-minmax, whose boxes lie inside the image'
        return ignored

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        stock = {'erase': ('reprob', 0.0), 'cutmix': ('mixup_prob', 1.0)}.get(args.keep_cut)
        if stock and args.keep_prob is not None:
            name, default = stock
            yield (
                typed(args, name) != default,
                (
                    f'--keep-cut {args.keep_cut} has two probabilities, {spell(name, typed(args, name))} '
                    f'and --keep-prob {args.keep_prob}: drop one of them.'
                ),
            )
        yield (
            args.keep_cut == 'erase' and is_typed_zero(args, 'reprob') and args.keep_prob is None,
            f'--reprob 0 switches erasing off, and {self.spelled(args)} erases: drop one of the two.',
        )
        yield (
            args.keep_cut == 'cutmix' and is_typed_zero(args, 'cutmix') and typed(args, 'cutmix_minmax') is None,
            f'--cutmix 0 switches CutMix off, and {self.spelled(args)} is CutMix: drop one of the two.',
        )
        yield (
            args.cutout is not None,
            ('--keep-cut and --cutout both cut the image: choose one, and compare the two in separate runs.'),
        )

    def draws_size(self, args: argparse.Namespace) -> bool:
        return args.keep_cut != 'cutout'

    def region_of(self, drawn: Mapping[str, Any]) -> str:
        return 'replaced' if 'partner' in drawn else 'removed'

    def build(self, args: argparse.Namespace, model: nn.Module) -> KeepCut:
        settings = dict(self.region_settings(args), windows=args.keep_windows)
        if args.keep_saliency == RECYCLED:
            settings['maps'] = SaliencyMaps(cells=args.keep_map_size)
        if args.keep_cut == 'erase':
            settings.update(fill=fill_of_erasing(args), max_count=args.recount)
            settings['prob'] = args.taken_over.reprob or 1.0 if args.keep_prob is None else args.keep_prob
        elif args.keep_cut == 'cutmix':
            settings.update(mixing_settings(args, cutmix_alpha=args.taken_over.cutmix or 1.0))
            settings['prob'] = args.mixup_prob if args.keep_prob is None else args.keep_prob
        return KeepCut(model, args.num_classes, args.keep_cut, **settings)
