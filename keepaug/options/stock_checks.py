"""What stock's scripts and timm would refuse later, some of it only after minutes: checked before data is read.

Each check is a table of (refused, sentence) rows; a sentence names the flag, its value and the way out.
"""

import argparse
import difflib
import os
from collections.abc import Callable, Iterable

import timm.optim
import torch
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_train

from keepaug.data.checks import STREAMS
from keepaug.methods.method import Refusal, spell
from keepaug.methods.pad_crop import MODE as PAD_CROP
from keepaug.methods.stock_mixing import stock_mixers
from keepaug.models.names import nearest_names, unknown_model
from keepaug.models.recorded import statistics_problem
from keepaug.options.device_checks import device_rows, format_rows
from keepaug.options.flag_ranges import range_rows
from keepaug.options.newer import check_newer
from keepaug.options.prepare import refuse
from keepaug.ranges import any_of
from keepaug.training.schedule import check_optimizer, check_schedule, needs_cuda

Rows = Iterable[Refusal]

# Closed sets of names that stock's script or timm reads; `None` (from YAML) leaves timm's own default.
STOCK_NAMES = {
    'clip_mode': ('norm', 'value', 'agc'),
    'dist_bn': ('reduce', 'broadcast', 'none', ''),
    'train_crop_mode': ('', 'rrc', 'rkrc', 'rkrr', PAD_CROP),
    'mixup_mode': ('batch', 'pair', 'elem', 'half'),
    'worker_seeding': ('all', 'part'),
    'lr_base_scale': ('', 'linear', 'sqrt'),
    'sched': ('cosine', 'tanh', 'step', 'multistep', 'poly', 'wsd', 'rsqrt', 'constant', 'plateau', 'none'),
}

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')


def check_stock(args: argparse.Namespace) -> None:
    """Checks what stock's training script and timm would refuse later, some of it only after minutes.

    Args:
        args: Options returned by `prepare`.

    Raises:
        ValueError: One sentence for the user.
    """
    for check in (
        data_rows,
        _model,
        head_rows,
        _stock_names,
        device_rows,
        format_rows,
        _files,
        _policy,
        range_rows,
        _optimizer,
        _averaging,
        channel_rows,
        mode_rows,
        _lengths,
        _loaders,
        _splits,
        _mixing,
        check_newer,
        _schedule,
    ):
        refuse(check(args))


def data_rows(args: argparse.Namespace) -> Rows:
    yield (
        bool(args.data and args.data_dir) and args.data != args.data_dir,
        f'{args.data} stands beside --data-dir {args.data_dir}, and only one folder is read: drop one of the two.',
    )


def _model(args: argparse.Namespace) -> Rows:
    for flag, name in (('--model', args.model), ('--kd-model-name', args.kd_model_name)):
        problem = unknown_model(name) if name else ''
        yield bool(problem), f'{flag} {name} {problem}'
    yield from model_rows(args)


def model_rows(args: argparse.Namespace) -> Rows:
    yield args.model == '', "--model '' names no architecture: give one, such as resnet50."


def head_rows(args: argparse.Namespace) -> Rows:
    yield (
        args.gp == '',
        "--gp '' pools nothing, and a classifier needs one vector per image: give a pooling such as avg, or drop it.",
    )


def _stock_names(args: argparse.Namespace) -> Rows:
    for name, known in STOCK_NAMES.items():
        value = vars(args)[name]
        yield value not in (None, *known), f'{spell(name, value)} is unknown: choose {any_of(filter(None, known))}.'
    yield (
        (args.remode or '').lower() not in ('', 'pixel', 'rand', 'const'),
        (f'--remode {args.remode} is unknown: choose pixel, rand or const.'),
    )


def _optimizer(args: argparse.Namespace) -> Rows:
    known = list(map(str, timm.optim.list_optimizers()))
    # timm reads what stands after the last underscore; lookahead_ may stand before it.
    name = args.opt.lower().split('_')[-1]
    yield name not in known, f'--opt {args.opt} is unknown to timm: {nearest_names(name, known)}'
    if args.opt_betas:
        about = timm.optim.get_optimizer_info(name)
        yield (
            about.has_betas and len(args.opt_betas) != about.num_betas,
            f'{spell("opt_betas", args.opt_betas)} must be {about.num_betas} numbers for --opt {args.opt}.',
        )
    if not _is_left_out(args):
        yield from _refused(check_optimizer, args)


def _schedule(args: argparse.Namespace) -> Rows:
    if not _is_left_out(args):
        yield from _refused(check_schedule, args)


def _is_left_out(args: argparse.Namespace) -> bool:
    """Whether the check of a job for another machine cannot build its optimizer here."""
    return vars(args).get('check', False) and needs_cuda(args) and not torch.cuda.is_available()


def _refused(check: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> Rows:
    """What another part of a run refuses when it is asked beforehand."""
    try:
        check(args)
    except ValueError as error:
        yield True, str(error)


def _files(args: argparse.Namespace) -> Rows:
    for name in ('resume', 'initial_checkpoint', 'pretrained_path', 'kd_pretrained_path'):
        path = vars(args)[name]
        missing = bool(path) and (name, path) != ('resume', 'auto') and not os.path.isfile(path)
        last = os.path.join(path or '', 'last.pth.tar')
        yield (
            missing and os.path.isdir(path),
            (f'{spell(name, path)} is a folder: give {last if os.path.isfile(last) else "a checkpoint file in it"}.'),
        )
        auto = 'say auto, or ' if name == 'resume' and difflib.get_close_matches(path or '', ['auto'], n=1) else ''
        yield missing, f'{spell(name, path)} is not there: {auto}give the path of a checkpoint file.'
    yield (
        bool(args.wandb_resume_id) and not args.resume,
        f'--wandb-resume-id {args.wandb_resume_id} continues a run, so --resume must name its checkpoint: add it.',
    )


def _policy(args: argparse.Namespace) -> Rows:
    if not args.aa:
        return
    try:
        transforms_imagenet_train(auto_augment=args.aa)
    except (AssertionError, AttributeError, ValueError, KeyError, IndexError, TypeError):
        yield True, f'--aa {args.aa} is no policy of timm: try rand-m9-mstd0.5, augmix-m5-w4, original, v0 or 3a.'


def _averaging(args: argparse.Namespace) -> Rows:
    batch = args.validation_batch_size or args.batch_size
    yield (
        args.tta > 1 and batch % args.tta > 0,
        (
            f'--tta {args.tta} averages runs of outputs, which must fit into the validation batch of {batch}: '
            'give --validation-batch-size a multiple of it.'
        ),
    )


def _lengths(args: argparse.Namespace) -> Rows:
    for name in ('scale', 'ratio', 'cutmix_minmax'):
        value = vars(args)[name]
        yield (
            value is not None and (len(value) != 2 or value[0] > value[1]),
            (f'{spell(name, value)} is no range: give its low and its high end.'),
        )
    yield from interpolation_rows(args)
    yield (
        args.train_interpolation not in (None, '', 'random', *INTERPOLATIONS),
        (f'--train-interpolation {args.train_interpolation} is unknown: choose random, {any_of(INTERPOLATIONS)}.'),
    )
    channels = args.in_chans or (args.input_size or [3])[0]
    if ':' not in args.model:  # which brings its own
        problem = statistics_problem(vars(args), channels)
        yield bool(problem), problem
    yield (
        channels not in (1, 3) and not args.input_img_mode,
        (f'--in-chans {channels} fits neither grey nor colour images: give --input-img-mode, such as RGBA for 4.'),
    )


def channel_rows(args: argparse.Namespace) -> Rows:
    given, size = args.in_chans, args.input_size
    if size is not None and size[2] in (1, 3, 4) and size[0] > 4:
        first = spell('input_size', [size[2], *size[:2]])
        yield True, f'{spell("input_size", size)} has the channels last, where they come first: give {first}.'
    yield (
        given is not None and size is not None and given != size[0],
        f'--in-chans {given} and {spell("input_size", size)} name two numbers of channels: drop one of the two.',
    )


def mode_rows(args: argparse.Namespace) -> Rows:
    try:
        Image.getmodebands(args.input_img_mode or 'RGB')
    except KeyError:
        yield True, f'--input-img-mode {args.input_img_mode} is unknown to Pillow: give a mode such as RGB, L or RGBA.'


def interpolation_rows(args: argparse.Namespace) -> Rows:
    yield (
        args.interpolation not in (None, '', *INTERPOLATIONS),
        (f'--interpolation {args.interpolation} is unknown: choose {any_of(INTERPOLATIONS)}.'),
    )


def _loaders(args: argparse.Namespace) -> Rows:
    stream = args.dataset.lower().startswith(STREAMS)
    sizes = ' '.join(map(str, args.train_img_sizes or ()))
    for name in ('train_batch_sizes', 'train_size_probs'):
        value = vars(args)[name]
        yield (
            bool(sizes and value) and len(value) != len(args.train_img_sizes),
            f'{spell(name, value)} must have as many entries as --train-img-sizes {sizes}: give {len(sizes.split())}.',
        )
    access = [
        (args.aug_splits > 0, f'--aug-splits {args.aug_splits}'),
        (args.aug_repeats > 0, f'--aug-repeats {args.aug_repeats}'),
        (bool(sizes), f'--train-img-sizes {sizes}'),
        (args.naflex_loader, '--naflex-loader'),
    ]
    single = [
        *access[:-1],
        (args.use_multi_epochs_loader, '--use-multi-epochs-loader'),
        (args.torchscript, '--torchscript'),
        (args.save_images, '--save-images'),
    ]
    yield from [
        *(
            (stream and on, f'--dataset {args.dataset} is a stream, {flag} picks images from it: drop one of the two.')
            for on, flag in [*access, (args.exact_resume, '--exact-resume')]
        ),
        *(
            (
                args.naflex_loader and on,
                f'--naflex-loader makes batches of patches and does not work with {flag}: drop one of the two.',
            )
            for on, flag in single
        ),
        (
            args.sync_bn and (args.split_bn or args.torchscript),
            '--sync-bn combines neither with --split-bn nor with --torchscript: drop one of them.',
        ),
        (
            bool(args.train_img_sizes) and args.use_multi_epochs_loader,
            '--train-img-sizes does not work with --use-multi-epochs-loader: drop one of the two.',
        ),
    ]


def _splits(args: argparse.Namespace) -> Rows:
    splits = args.aug_splits
    return [
        (splits == 1 or splits < 0, f'--aug-splits {splits} makes no sense: give 0 for none, or at least 2.'),
        (
            args.loss == 'jsd' and splits < 2,
            f'--{"jsd-loss" if args.jsd_loss else "loss jsd"} compares splits, and --aug-splits is {splits}: '
            'add --aug-splits 3.',
        ),
        (
            args.split_bn and splits < 2 and not args.resplit,
            f'--split-bn needs splits, and --aug-splits is {splits}: add --aug-splits 2 or --resplit.',
        ),
        (
            splits > 1 and args.resplit and args.no_prefetcher and args.reprob > 0,
            '--resplit keeps erasing off the first split in the prefetcher only: drop --no-prefetcher.',
        ),
        (splits > 1 and args.no_aug, f'--aug-splits {splits} has nothing to do under --no-aug: drop one of the two.'),
        (
            splits > 1 and bool(args.train_img_sizes),
            f'--aug-splits {splits} does not work with --train-img-sizes: drop one of the two.',
        ),
    ]


def _mixing(args: argparse.Namespace) -> Rows:
    on = [name for name in stock_mixers(args) if name not in vars(args.taken_over)]
    if not on:
        return
    mixer = spell(on[0])
    yield (
        args.aug_splits > 1,
        (f'{mixer} cannot mix the splits of --aug-splits {args.aug_splits}: drop one of the two.'),
    )
    sizes = args.train_batch_sizes if args.train_img_sizes and args.train_batch_sizes else [args.batch_size]
    name = 'batch_size' if sizes == [args.batch_size] else 'train_batch_sizes'
    for size in sizes:
        yield size % 2 == 1, f'{spell(name, size)} is odd, and {mixer} mixes in pairs: give an even number.'
