"""Whatever can be refused before data is read: each check is a table of (refused, sentence) rows over the arguments.

A sentence names the flag, its value and the way out.
"""
import argparse
import copy
import difflib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm
import timm.optim
import torch
from timm.data.transforms_factory import transforms_imagenet_train
from timm.models import parse_model_name

from keepaug.augment.joint_occlusion import JointOcclusion
from keepaug.augment.keep_cut import KeepCut
from keepaug.augment.saliency import SALIENCIES
from keepaug.options.early_exit import check_early_exit, check_early_exit_of
from keepaug.options.evaluation import check_evaluation
from keepaug.options.exact_resume import check_exact_resume
from keepaug.options.keep_paste import check_keep_paste
from keepaug.options.label_mixing import check_label_mixing, label_mixers
from keepaug.options.newer import check_newer, check_task, name_loss
from keepaug.options.occlusion import check_copies, check_occlusion
from keepaug.options.parse import create_parser
from keepaug.options.refine import check_refine
from keepaug.options.watch import check_watch

Rows = Iterable[tuple[bool, str]]

CROP_MODES = (None, '', 'rrc', 'rkrc', 'rkrr', 'pad4')
# What a bare flag stands for: another person's script may hand us the YAML value `true` as it is.
BARE = {
    'keep_cut': 'cutout', 'cutout': 0, 'joint_occlusion': 'hide-and-seek', 'attentive_cutmix': 6,
    'feature_cutmix': 'all', 'manifold_mixup': 'all',
}
# Ours that see batches on the device, each of which moves stock's mixing there.
BATCHES = ('keep_cut', 'cutout', 'joint_occlusion')
# What changes the loop or the loader, not only the data set and the task that another script lets us wrap.
OWN_SCRIPT_ONLY = ('augment_copies', 'refine_epochs', 'risk_samples', 'exact_resume')
# What keep-cut and keep-paste share.
KEEP_ONLY = ('keep_tau', 'keep_size', 'keep_prob', 'keep_saliency', 'keep_low_scale')

# Closed sets of names that stock's script or timm reads; `None` (from YAML) leaves timm's own default.
STOCK_NAMES = {
    'clip_mode': ('norm', 'value', 'agc'),
    'dist_bn': ('reduce', 'broadcast', 'none', ''),
    'mixup_mode': ('batch', 'pair', 'elem', 'half'),
    'worker_seeding': ('all', 'part'),
    'sched': ('cosine', 'tanh', 'step', 'multistep', 'poly', 'wsd', 'rsqrt', 'constant', 'plateau', 'none'),
}

# Readers without random access.
STREAMS = ('tfds/', 'wds/', 'hfids/')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')

# Smallest value of numbers that have one; where unset, timm or the script chooses.
LEAST = {
    1: ('batch_size', 'validation_batch_size', 'checkpoint_hist', 'epochs', 'log_interval', 'val_interval',
        'lr_base_size', 'recount', 'num_classes'),
    0: ('start_epoch', 'mixup', 'cutmix', 'recovery_interval', 'warmup_epochs', 'cooldown_epochs'),
}
PROBABILITIES = ('reprob', 'mixup_prob', 'mixup_switch_prob', 'hflip', 'vflip', 'color_jitter_prob', 'grayscale_prob',
                 'gaussian_blur_prob')


def prepare(args: argparse.Namespace) -> argparse.Namespace:
    """Checks the flags of keepaug against each other and stock's, and stands stock down where ours take over.

    Returns a copy of `args`. What was taken from stock is switched off there and kept in `stood_down`, under the same
    names; the attribute is absent where nothing was taken. To prepare prepared arguments changes nothing.

    Raises:
        ValueError: one sentence for the user.
    """
    prepared = copy.copy(args)
    vars(prepared).update(vars(vars(prepared).pop('stood_down', argparse.Namespace())))
    for name, const in BARE.items():
        if isinstance(getattr(prepared, name, None), bool):
            setattr(prepared, name, const if getattr(prepared, name) else None)

    complete = _complete(prepared)
    if not hasattr(prepared, 'check'):  # the one flag that only our own script has
        _refuse(complete, (_own_script,))
    _refuse(complete, (
        _values, _crop, _batches, _one_cutter, check_keep_paste, _effect, check_early_exit, check_occlusion,
        check_copies, check_refine, check_label_mixing, check_exact_resume, check_watch,
    ))
    off = _taken_over(complete)
    if off:
        prepared.stood_down = argparse.Namespace(**{name: getattr(complete, name) for name in off})
        vars(prepared).update(off)
    return prepared


def check_stock(args: argparse.Namespace) -> None:
    """Checks what stock's training script and timm would refuse later, some of it only after minutes.

    Raises:
        ValueError: one sentence for the user.
    """
    _refuse(_complete(args), (
        _model, _stock_names, _optimizer, _device, _dtypes, _files, _policy, _ranges, _lengths, _loaders, _splits,
        _mixing, check_newer,
    ))


def check_validate(args: argparse.Namespace) -> None:
    """The checks of `check_stock` that apply to the validation script, whose `--model` may be a pattern or a file.

    Raises:
        ValueError: one sentence for the user.
    """
    _refuse(_complete(args), (
        _device, _dtypes, _interpolation, _kernels, check_task, check_early_exit_of, check_evaluation,
    ))


@functools.cache
def _defaults() -> dict[str, Any]:
    return vars(create_parser().parse_args([]))


def _complete(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with a default for each that another person's parser does not have."""
    complete = argparse.Namespace(**{**_defaults(), **vars(args)})
    name_loss(complete)
    return complete


def _refuse(args: argparse.Namespace, checks: Sequence[Callable[[argparse.Namespace], Rows]]) -> None:
    for check in checks:
        for refused, sentence in check(args):
            if refused:
                raise ValueError(sentence)


def _taken_over(args: argparse.Namespace) -> dict[str, Any]:
    """What keepaug does in stock's place: name of the argument and the value that switches stock off."""
    off = {}
    # Keep-cut has a place of its own for it; keep-paste keeps it off the clean image and off what it pastes.
    if args.keep_cut == 'erase' or args.keep_paste:
        off['reprob'] = 0.
    # Mixing moves onto the device, behind our cuts and pastes and before occlusion: saliency must see whole images. So
    # it does where stock's collate function cannot follow: several copies of a sample, parameters that fade.
    ours = (
        args.keep_paste or args.augment_copies > 1 or args.refine_fade > 0
        or any(getattr(args, name) is not None for name in BATCHES))
    if args.keep_cut == 'cutmix' or label_mixers(args) or (_mixers(args) and ours):
        off.update(mixup=0., cutmix=0., cutmix_minmax=None)
    # Without augmentation the loader does not look at the crop mode, and neither do we.
    if args.train_crop_mode == 'pad4' and not args.no_aug:
        off['train_crop_mode'] = None
    return off


def _mixers(args: argparse.Namespace) -> list[str]:
    """Stock's label mixers that are on."""
    return [name for name, active in (
        ('mixup', args.mixup > 0), ('cutmix', args.cutmix > 0), ('cutmix_minmax', args.cutmix_minmax is not None),
    ) if active]


def _flag(name: str, value: Any = None) -> str:
    """The flag as a user types it, with its value if one is given."""
    flag = '--' + name.replace('_', '-')
    return flag if value is None else f'{flag} {value}'


def _any_of(names: Iterable[object]) -> str:
    *first, last = map(str, names)
    return f'{", ".join(first)} or {last}' if first else last


def _nearest(name: str, known: Sequence[str]) -> str:
    """The way out for a misspelt name."""
    nearest = difflib.get_close_matches(name, known, n=3)
    return f'try {_any_of(nearest)}.' if nearest else 'no known name is close to it, look it up in timm.'


# What keepaug refuses.

def _own_script(args: argparse.Namespace) -> Rows:
    for name in OWN_SCRIPT_ONLY:
        value = getattr(args, name)
        yield value != _defaults()[name], (
            f"{_flag(name, None if value is True else value)} needs keepaug's own train.py, this script has another "
            'loop: drop it or train there.')


def _values(args: argparse.Namespace) -> Rows:
    tau, size, prob, scale, side = args.keep_tau, args.keep_size, args.keep_prob, args.keep_low_scale, args.cutout
    image = min(args.input_size[1:]) if args.input_size else args.img_size
    return [
        (args.keep_cut not in (None, *KeepCut.modes),
         f'--keep-cut {args.keep_cut} is unknown: choose {_any_of(KeepCut.modes)}.'),
        (args.keep_saliency not in (None, *SALIENCIES),
         f'--keep-saliency {args.keep_saliency} is unknown: choose {_any_of(SALIENCIES)}.'),
        (tau is not None and not 0 <= tau <= 1,
         f'--keep-tau {tau} lies outside [0, 1]: give a share such as 0.6, or none to draw blindly.'),
        (size is not None and not (isinstance(size, int) and size >= 1),
         f'--keep-size {size} is no side of a window: give a whole number of pixels, at least 1.'),
        (bool(size and image) and size > image,
         f'--keep-size {size} does not fit into images of {image} px: choose at most {image}.'),
        (prob is not None and not 0 <= prob <= 1,
         f'--keep-prob {prob} lies outside [0, 1]: give a probability such as 0.5.'),
        (not 0 < scale <= 1,
         f'--keep-low-scale {scale} lies outside (0, 1]: give a share of the side such as 0.5.'),
        (side is not None and not (isinstance(side, int) and side >= 0),
         f'--cutout {side} is no side of a square: give a whole number of pixels, at least 1, or --cutout alone.'),
        (bool(side and image) and side > image,
         f'--cutout {side} is larger than images of {image} px: choose at most {image}.'),
    ]


def _crop(args: argparse.Namespace) -> Rows:
    pad4 = args.train_crop_mode == 'pad4' and not args.no_aug
    return [
        (args.train_crop_mode not in CROP_MODES,
         f'--train-crop-mode {args.train_crop_mode} is unknown: choose {_any_of(CROP_MODES[2:])}.'),
        (pad4 and args.naflex_loader,
         '--train-crop-mode pad4 crops to one size, --naflex-loader needs many: drop one of the two.'),
        (pad4 and bool(args.train_img_sizes),
         '--train-crop-mode pad4 crops to one size, --train-img-sizes asks for several: drop one of the two.'),
    ]


def _batches(args: argparse.Namespace) -> Rows:
    for name in BATCHES:
        on = getattr(args, name) is not None
        yield on and args.naflex_loader, (
            f'{_flag(name)} needs images, --naflex-loader makes batches of patches: drop one of the two.')
        yield on and args.aug_splits > 1, (
            f'{_flag(name)} cannot keep the splits of --aug-splits {args.aug_splits} apart: drop --aug-splits.')


def _one_cutter(args: argparse.Namespace) -> Rows:
    return [
        (args.keep_cut is not None and args.cutout is not None,
         '--keep-cut and --cutout both cut the image: choose one, and compare the two in separate runs.'),
        (args.keep_cut == 'erase' and args.reprob > 0 and args.keep_prob is not None,
         f'--keep-cut erase has two probabilities, --reprob {args.reprob} and --keep-prob {args.keep_prob}: '
         'drop one of them.'),
        (args.keep_cut == 'cutmix' and args.mixup_prob != 1 and args.keep_prob is not None,
         f'--keep-cut cutmix has two probabilities, --mixup-prob {args.mixup_prob} and --keep-prob {args.keep_prob}: '
         'drop one of them.'),
        *_mistyped_modes(args),
        (args.mixup_mode == 'half' and 'cutmix' in _taken_over(args),
         '--mixup-mode half exists in the loader only, and mixing moves to the device here: '
         'choose batch, pair or elem.'),
    ]


def _mistyped_modes(args: argparse.Namespace) -> Rows:
    """A mistyped mode is read as the folder of the data, and leaves its flag at the bare one's meaning."""
    for name, modes in (('keep_cut', KeepCut.modes), ('joint_occlusion', JointOcclusion.modes)):
        yield getattr(args, name) is not None and bool(args.data) and not os.path.exists(args.data) and (
            bool(args.data_dir) or os.path.basename(args.data) == args.data and bool(
                difflib.get_close_matches(args.data, modes, n=1))), (
            f'{args.data} is neither a folder nor a mode of {_flag(name)}: choose {_any_of(modes)}.')


def _effect(args: argparse.Namespace) -> Rows:
    for name in KEEP_ONLY:
        value = getattr(args, name)
        typed = 'none' if name == 'keep_tau' and value is None else value
        yield args.keep_cut is None and not args.keep_paste and value != _defaults()[name], (
            f'{_flag(name, typed)} has no effect without --keep-cut or --keep-paste: add one of them or drop it.')
    stock = _defaults()
    pasted_at_keep_size = args.keep_paste and args.keep_paste_size is None
    silent = [
        ('keep_size', args.keep_cut in ('erase', 'cutmix') and not pasted_at_keep_size,
         f'with --keep-cut {args.keep_cut}, whose size is drawn'),
        ('keep_size', args.keep_cut is None and args.keep_paste_size is not None, 'beside --keep-paste-size'),
        ('resplit', args.keep_cut == 'erase', 'with --keep-cut erase, which cuts every image'),
        ('keep_low_scale', args.keep_saliency in ('full', 'early') or args.keep_tau is None,
         'where no reduced image is used'),
        ('scale', args.train_crop_mode == 'pad4', 'with --train-crop-mode pad4, which keeps the scale'),
        ('ratio', args.train_crop_mode == 'pad4', 'with --train-crop-mode pad4, which keeps the shape'),
    ]
    for name, is_silent, where in silent:
        value = getattr(args, name)
        yield is_silent and value != stock[name], f'{_flag(name, value)} has no effect {where}: drop it.'
    yield args.keep_saliency is not None and args.keep_tau is None, (
        f'--keep-saliency {args.keep_saliency} has no effect with --keep-tau none, which draws blindly: '
        'drop one of the two.')


# What stock refuses.

def _model(args: argparse.Namespace) -> Rows:
    yield from _known_model('--model', args.model)
    if args.kd_model_name:
        yield from _known_model('--kd-model-name', args.kd_model_name)
    if args.attentive_cutmix is not None and args.attentive_teacher != 'self':
        yield from _known_model('--attentive-teacher', args.attentive_teacher)


def _known_model(flag: str, model: str) -> Rows:
    try:
        source, name = parse_model_name(model)
    except ValueError:
        yield True, (f'{flag} {model} is a path or has an unknown source: '
                     'put hf-hub: before a repository of the Hub, local-dir: before a folder.')
        return
    if source is None and not timm.is_model(name):
        # The tag behind the dot is timm's to judge.
        yield True, f'{flag} {model} is unknown to timm: {_nearest(name.split(".")[0], timm.list_models())}'


def _stock_names(args: argparse.Namespace) -> Rows:
    for name, known in STOCK_NAMES.items():
        value = getattr(args, name)
        yield value not in (None, *known), f'{_flag(name, value)} is unknown: choose {_any_of(filter(None, known))}.'
    yield (args.remode or '').lower() not in ('', 'pixel', 'rand', 'const'), (
        f'--remode {args.remode} is unknown: choose pixel, rand or const.')


def _optimizer(args: argparse.Namespace) -> Rows:
    known = timm.optim.list_optimizers()
    # timm reads what stands after the last underscore; lookahead_ may stand before it.
    name = args.opt.lower().split('_')[-1]
    return [(name not in known, f'--opt {args.opt} is unknown to timm: {_nearest(name, known)}')]


def _device(args: argparse.Namespace) -> Rows:
    device = args.device
    if args.device_modules:
        return  # the device may exist once they are imported
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        yield True, f'--device {device} is not available to torch here: say --device cpu.'


def _dtypes(args: argparse.Namespace) -> Rows:
    return [
        (args.amp_dtype not in ('float16', 'bfloat16'),
         f'--amp-dtype {args.amp_dtype} is unknown: choose float16 or bfloat16.'),
        (args.model_dtype not in (None, 'float32', 'float16', 'bfloat16'),
         f'--model-dtype {args.model_dtype} is unknown: choose float32, float16 or bfloat16.'),
        (args.amp and args.model_dtype not in (None, 'float32'),
         f'--model-dtype {args.model_dtype} leaves --amp nothing to do: drop one of the two.'),
    ]


def _files(args: argparse.Namespace) -> Rows:
    for name in ('resume', 'initial_checkpoint', 'pretrained_path', 'kd_pretrained_path'):
        path = getattr(args, name)
        missing = bool(path) and (name, path) != ('resume', 'auto') and not os.path.isfile(path)
        last = os.path.join(path or '', 'last.pth.tar')
        yield missing and os.path.isdir(path), (
            f'{_flag(name, path)} is a folder: give {last if os.path.isfile(last) else "a checkpoint file in it"}.')
        yield missing, f'{_flag(name, path)} is not there: give the path of a checkpoint file.'


def _policy(args: argparse.Namespace) -> Rows:
    if not args.aa:
        return
    try:
        transforms_imagenet_train(auto_augment=args.aa)
    except (AssertionError, AttributeError, ValueError, KeyError, IndexError, TypeError):
        yield True, f'--aa {args.aa} is no policy of timm: try rand-m9-mstd0.5, augmix-m5-w4, original, v0 or 3a.'


def _ranges(args: argparse.Namespace) -> Rows:
    for least, names in LEAST.items():
        for name in names:
            value = getattr(args, name)
            yield value is not None and value < least, f'{_flag(name, value)} is too small: give at least {least}.'
    for name in PROBABILITIES:
        value = getattr(args, name)
        yield value is not None and not 0 <= value <= 1, (
            f'{_flag(name, value)} lies outside [0, 1]: give a probability such as 0.5.')
    yield not 0 <= args.smoothing < 1, (
        f'--smoothing {args.smoothing} lies outside [0, 1): give a share such as 0.1.')
    batch = args.validation_batch_size or args.batch_size
    yield args.tta > 1 and batch % args.tta > 0, (
        f'--tta {args.tta} averages runs of outputs, which must fit into the validation batch of {batch}: '
        'give --validation-batch-size a multiple of it.')


def _lengths(args: argparse.Namespace) -> Rows:
    for name in ('scale', 'ratio', 'cutmix_minmax'):
        value = getattr(args, name)
        yield value is not None and (len(value) != 2 or value[0] > value[1]), (
            f'{_flag(name, value)} is no range: give its low and its high end.')
    yield from _interpolation(args)
    yield args.train_interpolation not in (None, '', 'random', *INTERPOLATIONS), (
        f'--train-interpolation {args.train_interpolation} is unknown: choose random, {_any_of(INTERPOLATIONS)}.')
    channels = args.in_chans or (args.input_size or [3])[0]
    yield channels not in (1, 3) and not args.input_img_mode, (
        f'--in-chans {channels} fits neither grey nor colour images: give --input-img-mode, such as RGBA for 4.')


def _interpolation(args: argparse.Namespace) -> Rows:
    yield args.interpolation not in (None, '', *INTERPOLATIONS), (
        f'--interpolation {args.interpolation} is unknown: choose {_any_of(INTERPOLATIONS)}.')


def _kernels(args: argparse.Namespace) -> Rows:
    yield getattr(args, 'tf_preprocessing', False) and importlib.util.find_spec('tensorflow') is None, (
        '--tf-preprocessing needs the package tensorflow: pip install tensorflow, or drop it.')


def _loaders(args: argparse.Namespace) -> Rows:
    stream = args.dataset.lower().startswith(STREAMS)
    sizes = ' '.join(map(str, args.train_img_sizes or ()))
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
    return [
        *((stream and on, f'--dataset {args.dataset} is a stream, {flag} picks images from it: drop one of the two.')
          for on, flag in [*access, (args.exact_resume, '--exact-resume')]),
        *((args.naflex_loader and on,
           f'--naflex-loader makes batches of patches and does not work with {flag}: drop one of the two.')
          for on, flag in single),
        (args.sync_bn and (args.split_bn or args.torchscript),
         '--sync-bn combines neither with --split-bn nor with --torchscript: drop one of them.'),
        (bool(args.train_img_sizes) and args.use_multi_epochs_loader,
         '--train-img-sizes does not work with --use-multi-epochs-loader: drop one of the two.'),
    ]


def _splits(args: argparse.Namespace) -> Rows:
    splits = args.aug_splits
    return [
        (splits == 1 or splits < 0, f'--aug-splits {splits} makes no sense: give 0 for none, or at least 2.'),
        (args.loss == 'jsd' and splits < 2,
         f'--{"jsd-loss" if args.jsd_loss else "loss jsd"} compares splits, and --aug-splits is {splits}: '
         'add --aug-splits 3.'),
        (args.split_bn and splits < 2 and not args.resplit,
         f'--split-bn needs splits, and --aug-splits is {splits}: add --aug-splits 2 or --resplit.'),
        (splits > 1 and args.resplit and args.no_prefetcher and args.reprob > 0,
         '--resplit keeps erasing off the first split in the prefetcher only: drop --no-prefetcher.'),
        (splits > 1 and args.no_aug,
         f'--aug-splits {splits} has nothing to do under --no-aug: drop one of the two.'),
        (splits > 1 and bool(args.train_img_sizes),
         f'--aug-splits {splits} does not work with --train-img-sizes: drop one of the two.'),
    ]


def _mixing(args: argparse.Namespace) -> Rows:
    on = _mixers(args)
    if not on:
        return
    mixer = _flag(on[0])
    yield args.aug_splits > 1, (
        f'{mixer} cannot mix the splits of --aug-splits {args.aug_splits}: drop one of the two.')
    sizes = args.train_batch_sizes if args.train_img_sizes and args.train_batch_sizes else [args.batch_size]
    name = 'batch_size' if sizes == [args.batch_size] else 'train_batch_sizes'
    for size in sizes:
        yield size % 2 == 1, f'{_flag(name, size)} is odd, and {mixer} mixes in pairs: give an even number.'

