"""Selective paste (KeepAugment, Algorithm 1b): `--keep-paste`."""

import argparse
from collections.abc import Iterator
from typing import Any

from torch import nn

from keepaug.augment import KeepPaste
from keepaug.data.transform import TransformChanges
from keepaug.methods.keep_region import KeepMethod, fill_of_erasing
from keepaug.methods.method import Flag, Need, Refusal
from keepaug.methods.registry import active_methods


class KeepPasteMethod(KeepMethod):
    """Puts a salient region of the crop before the policy back on the crop after it."""

    name = 'keep-paste'
    title = 'keep-paste: put back a salient region that --aa changed'
    switch = Flag(
        '--keep-paste',
        help='turn it on: after the policy, put back a window of the image from before it, one whose saliency is '
        'above that of the share --keep-tau of all windows',
    )
    settings = (
        *KeepMethod.settings,
        Flag(
            '--keep-paste-size',
            parameter='size',
            type=int,
            metavar='PX',
            range=KeepPaste.ranges['size'],
            in_image=True,
            help='side of the pasted window in pixels; unset: --keep-size',
        ),
    )
    augments = ('keep-paste',)
    needs = Need.IMAGES
    region = 'put back'
    keeps_region = True
    example = '--keep-paste --aa rand-m9-mstd0.5'

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return {'reprob': 0.0}  # kept off the clean image and off what is pasted

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        ignored = super().ignores(args)
        if args.keep_paste_size is not None:
            ignored['keep_size'] = 'beside --keep-paste-size'
        return ignored

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        for other, on, why in (
            ('--no-aug', args.no_aug, 'leaves no policy to paste over'),
            (f'--aug-splits {args.aug_splits}', args.aug_splits > 1, 'has clean and augmented rows of its own'),
            ('--train-img-sizes', bool(args.train_img_sizes), 'takes the transform out of the data set'),
            ('--resplit', args.resplit, "is for stock's eraser, and ours never erases the clean image"),
        ):
            yield on, f'--keep-paste does not work with {other}, which {why}: drop one of the two.'
        yield (
            not args.aa,
            ('--keep-paste has no policy to paste over: add --aa with one that timm knows, such as rand-m9-mstd0.5.'),
        )

    def window_size(self, args: argparse.Namespace) -> int | None:
        return args.keep_size if args.keep_paste_size is None else args.keep_paste_size

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        changes.paired = True

    def build(self, args: argparse.Namespace, model: nn.Module) -> KeepPaste:
        settings = self.region_settings(args) | {'size': self.window_size(args)}
        # What is cut after the paste is erased there, too: once is enough.
        erased_later = any('reprob' in method.takes_over(args) for method in active_methods(args) if method is not self)
        return KeepPaste(
            model,
            reprob=0.0 if erased_later else args.taken_over.reprob,
            remode=fill_of_erasing(args),
            recount=args.recount,
            **settings,
        )

    def flag_of(self, parameter: str, args: argparse.Namespace) -> str:
        if parameter == 'size' and args.keep_paste_size is not None:
            return '--keep-paste-size'
        return super().flag_of(parameter, args)
