"""GridMask (Chen et al., 2020), a baseline of selective cutting: `--grid-mask`."""

import argparse

from torch import nn

from keepaug.augment import GridMask
from keepaug.methods.method import Flag, Method
from keepaug.ranges import CHANCE

RANGES = GridMask.ranges


class GridMaskMethod(Method):
    """Removes squares at regular distances."""

    name = 'grid-mask'
    title = 'grid mask: squares removed at regular distances'
    switch = Flag('--grid-mask', help='turn it on')
    settings = (
        Flag(
            '--grid-mask-smallest',
            parameter='smallest',
            type=int,
            metavar='PX',
            range=RANGES['smallest'],
            in_image=True,
            help='smallest distance from one square to the next; unset: three sevenths of the image',
        ),
        Flag(
            '--grid-mask-largest',
            parameter='largest',
            type=int,
            metavar='PX',
            range=RANGES['largest'],
            in_image=True,
            help='largest distance; unset: the edge of the image',
        ),
        Flag(
            '--grid-mask-keep',
            parameter='keep',
            type=float,
            default=0.6,
            metavar='R',
            range=RANGES['keep'],
            help='share of the distance that lies between two squares',
        ),
        Flag(
            '--grid-mask-prob',
            parameter='prob',
            type=float,
            default=0.8,
            metavar='P',
            range=CHANCE,
            help='probability that an image is masked',
        ),
        Flag(
            '--grid-mask-ramp',
            parameter='ramp',
            type=float,
            default=0.0,
            metavar='SHARE',
            range=RANGES['ramp'],
            help='share of the epochs over which the probability rises linearly from 0',
        ),
    )
    augments = ('grid-mask',)
    example = '--grid-mask'

    def build(self, args: argparse.Namespace, model: nn.Module) -> GridMask:
        return GridMask(**{flag.parameter: vars(args)[flag.dest] for flag in self.settings})
