"""Joint occlusion (Fong and Vedaldi, 2019): `--joint-occlusion`."""

import argparse

from torch import nn

from keepaug.augment import JointOcclusion
from keepaug.methods.method import Flag, Method, Need
from keepaug.models.early_exit import backbone_of

RANGES = JointOcclusion.ranges
# Modes that read a setting, where not all that occlude do.
READ_BY = {
    'occlusion_grid': ('hide-and-seek',),
    'occlusion_keep_patch': ('hide-and-seek',),
    'occlusion_holes': ('cutout',),
    'occlusion_size': ('cutout', 'saliency'),
    'occlusion_layer': ('saliency',),
    'occlusion_jitter': ('saliency',),
}


class JointOcclusionMethod(Method):
    """Trains on each batch whole and occluded in one step."""

    name = 'joint-occlusion'
    title = 'joint occlusion: every image twice in a batch, whole and occluded'
    switch = Flag(
        '--joint-occlusion',
        parameter='mode',
        type=str,
        alone='hide-and-seek',
        choices=JointOcclusion.modes,
        help='turn it on; hide-and-seek (without a value): cells of a grid; cutout: squares anywhere; saliency: the '
        'most salient square; none: the batch doubled as it is, the control',
    )
    settings = (
        Flag(
            '--occlusion-grid',
            parameter='grid',
            type=int,
            default=4,
            metavar='N',
            range=RANGES['grid'],
            in_image=True,
            help='cells per edge, for hide-and-seek',
        ),
        Flag(
            '--occlusion-keep-patch',
            parameter='keep_patch',
            type=float,
            default=0.5,
            metavar='P',
            range=RANGES['keep_patch'],
            help='probability that a cell is kept, for hide-and-seek',
        ),
        Flag(
            '--occlusion-keep-image',
            parameter='keep_image',
            type=float,
            default=0.0,
            metavar='P',
            range=RANGES['keep_image'],
            help='probability that an occluded copy is left whole',
        ),
        Flag(
            '--occlusion-holes',
            parameter='holes',
            type=int,
            default=6,
            metavar='N',
            range=RANGES['holes'],
            help='squares per image, for cutout',
        ),
        Flag(
            '--occlusion-size',
            parameter='size',
            type=int,
            metavar='PX',
            range=RANGES['size'],
            in_image=True,
            help='side of a square in pixels; unset: a quarter of the image',
        ),
        Flag(
            '--occlusion-layer',
            parameter='layer',
            type=str,
            metavar='NAME',
            help='module at which saliency is measured; unset: the end of the stem',
        ),
        Flag(
            '--occlusion-jitter',
            parameter='jitter',
            type=int,
            metavar='PX',
            range=RANGES['jitter'],
            in_image=True,
            help='most pixels by which the salient square is moved; unset: a fourteenth of the image',
        ),
        Flag(
            '--occlusion-only', parameter='only', help='train on the occluded copies alone, the control for seeing both'
        ),
    )
    augments = ('joint-occlusion',)
    example = '--joint-occlusion'

    def needed(self, args: argparse.Namespace) -> Need:
        return self.needs | Need.OPEN_MODEL if args.joint_occlusion == 'saliency' else self.needs

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        mode = args.joint_occlusion
        return {
            flag.dest: f'with --joint-occlusion {mode}'
            for flag in self.settings
            if mode == 'none' or mode not in READ_BY.get(flag.dest, JointOcclusion.modes)
        }

    def build(self, args: argparse.Namespace, model: nn.Module) -> JointOcclusion:
        settings = {flag.parameter: vars(args)[flag.dest] for flag in self.flags}
        return JointOcclusion(backbone_of(model), **settings)
