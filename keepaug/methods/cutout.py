"""Published Cutout (DeVries and Taylor, 2017), the baseline of selective cutting: `--cutout`."""

import argparse

from torch import nn

from keepaug.augment import Cutout
from keepaug.methods.method import Flag, Method
from keepaug.ranges import Range


class CutoutMethod(Method):
    """Removes a square anywhere, over the border too."""

    name = 'cutout'
    title = 'controls for keep-cut'
    switch = Flag(
        '--cutout',
        parameter='size',
        type=int,
        alone=0,
        metavar='PX',
        in_image=True,
        values='a number of pixels',
        range=Range(least=0, whole=True, unit='pixel'),
        help='plain Cutout: one square anywhere, cut off at the border; without a value: side as for --keep-size',
    )
    augments = ('cutout',)
    example = '--cutout'

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.cutout is not None

    def build(self, args: argparse.Namespace, model: nn.Module) -> Cutout:
        return Cutout(size=args.cutout or None)
