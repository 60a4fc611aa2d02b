"""The flags of joint occlusion and of batch augmentation, and what they refuse."""
import argparse
from collections.abc import Iterable

from keepaug.augment.joint_occlusion import JointOcclusion

# Settings by name: default, and the modes that read it.
SQUARES = ('cutout', 'saliency')
ALL = ('hide-and-seek', *SQUARES)
SETTINGS = {
    'occlusion_grid': (4, ('hide-and-seek',)),
    'occlusion_keep_patch': (0.5, ('hide-and-seek',)),
    'occlusion_keep_image': (0., ALL),
    'occlusion_holes': (6, ('cutout',)),
    'occlusion_size': (None, SQUARES),
    'occlusion_layer': (None, ('saliency',)),
    'occlusion_jitter': (None, ('saliency',)),
    'occlusion_only': (False, ALL),
}
LEAST = {'occlusion_grid': 1, 'occlusion_holes': 1, 'occlusion_size': 1, 'occlusion_jitter': 0}
PROBABILITIES = ('occlusion_keep_patch', 'occlusion_keep_image')


def add_occlusion(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of joint occlusion."""
    group = parser.add_argument_group('joint occlusion: every image twice in a batch, whole and occluded')

    def add(flag: str, **settings) -> None:
        name = flag[2:].replace('-', '_')
        group.add_argument(flag, default=SETTINGS[name][0], **settings)

    group.add_argument('--joint-occlusion', nargs='?', const='hide-and-seek', choices=JointOcclusion.modes,
        help='turn it on; alone: hide-and-seek (cells of a grid), cutout: squares anywhere, saliency: the most salient '
             'square, none: the batch doubled as it is, the control')
    add('--occlusion-grid', type=int, metavar='N', help='cells per edge, for hide-and-seek')
    add('--occlusion-keep-patch', type=float, metavar='P', help='probability that a cell is kept, for hide-and-seek')
    add('--occlusion-keep-image', type=float, metavar='P', help='probability that an occluded copy is left whole')
    add('--occlusion-holes', type=int, metavar='N', help='squares per image, for cutout')
    add('--occlusion-size', type=int, metavar='PX', help='side of a square in pixels; unset: a quarter of the image')
    add('--occlusion-layer', metavar='NAME', help='module the saliency is measured at; unset: the end of the stem')
    add('--occlusion-jitter', type=int, metavar='PX',
        help='most pixels the salient square is moved by; unset: a fourteenth of the image')
    add('--occlusion-only', action='store_true', help='train on the occluded copies alone, the control for seeing both')


def add_copies(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of batch augmentation."""
    parser.add_argument_group('batch augmentation: every sample several times in a batch').add_argument(
        '--augment-copies', type=int, default=1, metavar='M',
        help='copies of each sample, cropped and augmented on their own; unlike --aug-repeats, in one batch')


def check_copies(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows (refused, sentence) for batch augmentation."""
    flag = f'--augment-copies {args.augment_copies}'
    on = args.augment_copies > 1
    yield args.augment_copies < 1, f'{flag} is too small: give at least 1, which is off.'
    yield on and args.naflex_loader, (
        f'{flag} needs images, --naflex-loader makes batches of patches: drop one of the two.')
    yield on and args.aug_splits > 1, (
        f'{flag} cannot keep the splits of --aug-splits {args.aug_splits} apart: drop --aug-splits.')


def check_occlusion(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows (refused, sentence) for the flags of joint occlusion."""
    mode = args.joint_occlusion
    yield mode not in (None, *JointOcclusion.modes), (
        f'--joint-occlusion {mode} is unknown: choose {", ".join(ALL)} or none.')
    for name, (default, modes) in SETTINGS.items():
        value = getattr(args, name)
        flag = f'--{name.replace("_", "-")}' + ('' if value is True else f' {value}')
        given = value != default
        yield given and mode is None, f'{flag} has no effect without --joint-occlusion: add it or drop {flag}.'
        yield given and mode not in modes, f'{flag} has no effect with --joint-occlusion {mode}: drop it.'
        yield name in LEAST and value is not None and value < LEAST[name], (
            f'{flag} is too small: give a whole number, at least {LEAST.get(name)}.')
        yield name in PROBABILITIES and not 0 <= value <= 1, (
            f'{flag} lies outside [0, 1]: give a probability such as 0.5.')
    yield mode == 'saliency' and args.torchscript, (
        '--joint-occlusion saliency looks inside the model, which --torchscript closes: drop one of the two.')
