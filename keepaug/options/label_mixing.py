"""The flags of the label mixers beyond stock's mixup and cutmix."""
import argparse
import os
import re
from collections.abc import Iterator

from keepaug.augment import CutMixVariant

# What turns a mixer of ours on, and the mixer of stock's whose alpha it takes over.
MIXERS = {'attentive_cutmix': None, 'cutmix_variant': 'cutmix', 'feature_cutmix': 'cutmix', 'manifold_mixup': 'mixup'}
# What a flag with an optional value takes. Anything else after it is the path of the data set.
VALUES = {
    'attentive_cutmix': 'give a number of patches, such as 6',
    'feature_cutmix': 'give different stages, such as 0,1,2',
    'manifold_mixup': 'give different stages, such as 0,1,2',
}
TEACHER_ONLY = ('attentive_teacher', 'attentive_teacher_checkpoint', 'attentive_teacher_size', 'attentive_grid')
PAPERS_TEACHER = 'resnet152'
PAPERS_FIXED_SIZE = 16


def add_label_mixing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('attentive cutmix: move the patches a teacher attends to most').add_argument
    add('--attentive-cutmix', nargs='?', type=int, const=6, metavar='N',
        help='put N patches (alone: 6) of another image in their place; probability and pairs by --mixup-prob, '
             '--mixup-mode')
    add('--attentive-teacher', default=PAPERS_TEACHER, metavar='NAME',
        help='the network that attends: a pretrained model of timm, or self for the one in training')
    add('--attentive-teacher-checkpoint', metavar='PATH', help="the teacher's weights, instead of pretrained ones")
    add('--attentive-teacher-size', type=int, metavar='PX',
        help="side of the images the teacher sees; unset: the teacher's own, for self that of the images")
    add('--attentive-grid', type=int, default=7, metavar='G', help='patches along each side')
    add = parser.add_argument_group('other forms of cutmix and mixup').add_argument
    add('--cutmix-variant', choices=CutMixVariant.variants, help='do one thing otherwise than cutmix, as a control')
    add('--cutmix-fixed-size', type=int, default=PAPERS_FIXED_SIZE, metavar='PX', help='side of the region of fixed')
    stages = ('at one of these stages, drawn for each batch: 0 is the image, n the n-th stage of the backbone, as in '
              '0,1,2; alone: all but the last')
    add('--feature-cutmix', nargs='?', type=stage_numbers, const='all', metavar='STAGES', help=f'cutmix {stages}')
    add('--manifold-mixup', nargs='?', type=stage_numbers, const='all', metavar='STAGES', help=f'mixup {stages}')


def stage_numbers(text: str) -> str:
    """The value of `--feature-cutmix`: different whole numbers with commas between, or 'all'."""
    numbers = text.split(',')
    if text != 'all' and not (re.fullmatch(r'\d+(,\d+)*', text) and len(set(numbers)) == len(numbers)):
        raise ValueError('stages are different numbers such as 0,1,2')
    return text


def label_mixers(args: argparse.Namespace) -> list[str]:
    """Our mixers that are on."""
    return [name for name in MIXERS if getattr(args, name) is not None]


def check_label_mixing(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals, as rows of (refused, sentence)."""
    on = label_mixers(args)
    flags = ['--' + name.replace('_', '-') for name in on]
    yield len(on) > 1, f'{" and ".join(flags)} both mix labels: choose one.'
    yield from _teacher(args)
    yield from _sizes(args)
    if not on:
        return
    flag = flags[0]
    yield on[0] in VALUES and bool(args.data and args.data_dir) and not os.path.exists(args.data), (
        f'{args.data} is neither a folder nor a value of {flag}: {VALUES.get(on[0])}.')
    yield args.keep_cut == 'cutmix', f'{flag} and --keep-cut cutmix both mix labels: choose one.'
    stock = {'mixup': args.mixup > 0, 'cutmix': args.cutmix > 0, 'cutmix_minmax': args.cutmix_minmax is not None}
    for name, mixes in stock.items():
        yield mixes and name != MIXERS[on[0]], (
            f'{flag} and --{name.replace("_", "-")} both mix labels: choose one.')
    yield args.naflex_loader, f'{flag} needs images, --naflex-loader makes batches of patches: drop one of the two.'
    yield args.aug_splits > 1, (
        f'{flag} cannot mix the splits of --aug-splits {args.aug_splits}: drop one of the two.')
    if on[0] in ('feature_cutmix', 'manifold_mixup'):
        yield from _inside(args, flag)


def _teacher(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    patches, grid, size = args.attentive_cutmix, args.attentive_grid, args.attentive_teacher_size
    path = args.attentive_teacher_checkpoint
    for name in TEACHER_ONLY:
        value, default = getattr(args, name), {'attentive_teacher': PAPERS_TEACHER, 'attentive_grid': 7}.get(name)
        flag = f'--{name.replace("_", "-")} {value}'
        yield patches is None and value != default, (
            f'{flag} has no effect without --attentive-cutmix: add it or drop the flag.')
    if patches is None:
        return
    yield not grid >= 1, f'--attentive-grid {grid} is no grid: give patches along a side, such as 7.'
    yield not 1 <= patches <= grid ** 2, (
        f'--attentive-cutmix {patches} is no number of patches of a grid of {grid} x {grid}: choose 1 to {grid ** 2}.')
    yield size is not None and size < 1, (
        f'--attentive-teacher-size {size} is no side of an image: give pixels, such as 224.')
    yield args.attentive_teacher == 'self' and path is not None, (
        f'--attentive-teacher-checkpoint {path} is not read with --attentive-teacher self: name the model it is of.')
    yield path is not None and not os.path.isfile(path), (
        f'--attentive-teacher-checkpoint {path} is not there: give the path of a checkpoint file.')


def _sizes(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    size, fixed = args.cutmix_fixed_size, args.cutmix_variant == 'fixed'
    image = min(args.input_size[1:]) if args.input_size else args.img_size
    yield args.cutmix_variant not in (None, *CutMixVariant.variants), (
        f'--cutmix-variant {args.cutmix_variant} is unknown: choose {", ".join(CutMixVariant.variants)}.')
    yield not fixed and size != PAPERS_FIXED_SIZE, (
        f'--cutmix-fixed-size {size} has no effect without --cutmix-variant fixed: add it or drop the flag.')
    yield size < 1, f'--cutmix-fixed-size {size} is no side of a region: give a whole number of pixels, at least 1.'
    yield bool(fixed and image) and size > image, (
        f'--cutmix-fixed-size {size} does not fit into images of {image} px: choose at most {image}.')


def _inside(args: argparse.Namespace, flag: str) -> Iterator[tuple[bool, str]]:
    """What cannot go with mixing inside the network."""
    yield args.torchscript, f'{flag} needs the stages of the model, which --torchscript hides: drop one of the two.'
    yield bool(args.kd_model_name), (
        f'{flag} mixes inside the model, where the teacher of --kd-model-name {args.kd_model_name} does not see it: '
        'drop one of the two.')
    yield bool(args.risk_samples), (
        f'{flag} mixes in training mode only, and --risk-samples {args.risk_samples} measures in eval mode: '
        'drop one of the two.')
    early = '--early-exit' if args.early_exit else f'--keep-saliency {args.keep_saliency}'
    yield args.early_exit or 'early' in (args.keep_saliency or ''), (
        f'{flag} mixes behind the early head of {early} too, which would not see what the label says: '
        'drop one of the two.')
