"""Which augmentations a run has, how strong each is, and what is switched off when: one block at the start of the log.

Taken from the objects that augment, so that it tells what really happens: a policy takes the place of colour jitter,
`--no-aug` leaves the loader nothing to do, mixing moves from the loader to the device.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from timm.data import Mixup, NaFlexMixup
from timm.data.naflex_random_erasing import PatchRandomErasing
from timm.data.naflex_transforms import RandomResizedCropToSequence
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomCropOrPad, RandomResizedCropAndInterpolation, ResizeKeepRatio
from timm.task import TrainingTask
from torch.utils.data import Dataset
from torchvision import transforms

from keepaug.data.policies import POLICIES
from keepaug.data.seeding import plain_loader
from keepaug.data.transform import list_steps
from keepaug.methods import active_methods
from keepaug.methods.method import spell, typed
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.phases import Phases, span

_logger = logging.getLogger('train')

DEFAULT_JITTER = 0.4  # stock's --color-jitter, which hardly anyone who gives --aa has typed
# Settings of what may not be on, with stock's defaults, and what turns it on.
OF_MIXING = {'mixup_prob': 1.0, 'mixup_switch_prob': 0.5, 'mixup_mode': 'batch', 'mixup_off_epoch': 0}
OF_ERASING = {'remode': 'pixel', 'recount': 1}
OF_SIZES = {'train_batch_sizes': None, 'train_size_probs': None, 'train_size_schedule': 'constant'}


class Augmentation(NamedTuple):
    """One line of the block.

    Attributes:
        name: What it is called.
        strength: Its settings, in words.
        refined: Whether the refinement switches it off.
        mixes: Whether it mixes labels, which `--mixup-off-epoch` ends.
        switches: Whether some of its draws are mixup and the others CutMix.
        erases: Whether it erases as stock's random erasing does.
    """

    name: str
    strength: str
    refined: bool = False
    mixes: bool = False
    switches: bool = False
    erases: bool = False


def log_augmentations(
    args, phases: Phases, loader, mixup_fn: Mixup | None, task: TrainingTask, data_config: dict[str, Any]
) -> None:
    """Writes the block: a line for each augmentation, in the order an image meets them, and the flags without effect.

    Args:
        args: Options.
        phases: Phases of the run.
        loader: Training batches, made to obey the refinement already.
        mixup_fn: Stock's mixing on the device, or None.
        task: What augments batches on the device.
        data_config: `input_size` of the images.
    """
    found = find_augmentations(args, phases, loader, mixup_fn, task, data_config['input_size'][1:])
    rows = [(each.name, _end(each, args, phases), each.strength) for each in found]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    title = 'Augmentations, in the order an image meets them' if rows else 'Augmentations: none'
    if phases.refined:
        verb = 'is' if phases.refined == 1 else 'are'
        title += f' ({span(phases.scheduled, phases.total - 1)} {verb} refined)'
    lines = [title]
    for name, end, strength in rows:
        cells = [name.ljust(widths[0]), *([end.ljust(widths[1])] if widths[1] else ()), strength]
        lines.append('  '.join(cells))
    notes = [*_without_effect(args, found), *_rate_without_effect(args, phases)]
    lines += [f'without effect: {note}' for note in notes]
    _logger.info('\n  '.join(lines))


def find_augmentations(
    args,
    phases: Phases,
    loader,
    mixup_fn: Mixup | None,
    task: TrainingTask,
    size: tuple[int, int],
) -> list[Augmentation]:
    """The augmentations of a run, in the order an image (H, W) meets them; arguments as `log_augmentations`."""
    refined = phases.refined > 0
    plain = plain_loader(loader)
    mixers = {
        'while collating': plain.collate_fn,
        'in the loader': getattr(plain.dataset, 'mixup_fn', None),
        'on the device': mixup_fn,
    }
    found = [*_image_steps(plain.dataset, args), *_views(args)]
    found += [_mixing(mixer, where, refined) for where, mixer in mixers.items() if isinstance(mixer, MIXERS)]
    eraser = getattr(loader, 'random_erasing', None)
    if eraser is not None:
        found.append(Augmentation('random erasing', f'{_erasing(eraser, args)}, on the device', refined, erases=True))
    if isinstance(task, AugmentedTask):
        sizes = [(edge, edge) for edge in args.train_img_sizes or ()] or [size]
        for augment in task.augment.augments:
            strength = ' or '.join(dict.fromkeys(map(augment.describe, sizes)))
            if strength:
                name, strength = augment.name or type(augment).__name__, f'{strength}, on the device'
                does = augment.mixes_labels, augment.switches, augment.erases
                found.append(Augmentation(name, strength, refined, *does))
    return found


def _end(augmentation: Augmentation, args, phases: Phases) -> str:
    """When an augmentation is switched off, in words; empty where nothing in the run is."""
    ends = []
    if augmentation.refined:
        ends.append((phases.scheduled, 'refinement'))
    if augmentation.mixes and 0 < args.mixup_off_epoch < phases.total:
        ends.append((args.mixup_off_epoch, '--mixup-off-epoch'))
    if not ends:
        return 'stays' if phases.refined else ''
    epoch, cause = min(ends)
    fade = phases.scheduled - phases.fading
    fades = f'fades from epoch {fade} on, ' if augmentation.refined and fade < epoch else ''
    return f'{fades}off from epoch {epoch} on ({cause})'


def _image_steps(dataset: Dataset, args) -> Iterator[Augmentation]:
    """What a training set does to an image; the refinement switches off what fades."""
    for step, fades in list_steps(dataset):
        name, strength = _describe(step, args)
        if strength:
            yield Augmentation(name, strength, fades, erases=isinstance(step, RandomErasing))


def _describe(step: Callable, args) -> tuple[str, str]:
    """Name and strength of a single step; an empty strength where it changes nothing."""
    if isinstance(step, transforms.RandomApply):
        name, strength = _describe(step.transforms[0], args)
        return name, f'{strength}, probability {step.p:g}' if step.p and strength else ''
    return DESCRIPTIONS[type(step)](step, args) if type(step) in DESCRIPTIONS else ('', '')


def _crop(step, args) -> tuple[str, str]:
    return 'crop', 'area {:.3g} to {:.3g}, aspect {:.3g} to {:.3g}'.format(*step.scale, *step.ratio)


def _resize(step: ResizeKeepRatio, args) -> tuple[str, str]:
    return 'resize', (
        f'area {{:.3g}} to {{:.3g}} with probability {step.random_scale_prob:g}, aspect {{:.3g}} to {{:.3g}} with '
        f'probability {step.random_aspect_prob:g}'
    ).format(*step.random_scale_range, *step.random_aspect_range)


def _pad_crop(step: transforms.RandomCrop, args) -> tuple[str, str]:
    return 'crop', f'at random, padded by {" and ".join(map(str, dict.fromkeys(step.padding)))} px'


def _jitter(step: transforms.ColorJitter, args) -> tuple[str, str]:
    alike = defaultdict(list)  # by their range
    for name in ('brightness', 'contrast', 'saturation', 'hue'):
        alike[getattr(step, name)].append(name)
    alike.pop(None, None)
    return 'color jitter', ', '.join(
        '{} {:.3g} to {:.3g}'.format(', '.join(names), *bounds) for bounds, names in alike.items()
    )


def _erasing(eraser: RandomErasing | PatchRandomErasing, args) -> str:
    """Strength of timm's random erasing, of images or of patches."""
    spared = f', not in the first of {eraser.num_splits} parts of a batch' if eraser.num_splits > 1 else ''
    probability = eraser.erase_prob if isinstance(eraser, PatchRandomErasing) else eraser.probability
    return f'probability {probability:g}, fill {args.remode}, regions at most {eraser.max_count}{spared}'


# What stock mixes labels with; its collate function is a `Mixup` too.
MIXERS = (Mixup, NaFlexMixup)
# Name and strength by the type of a step; steps that draw nothing are not here.
DESCRIPTIONS = {
    RandomResizedCropAndInterpolation: _crop,
    RandomResizedCropToSequence: _crop,
    ResizeKeepRatio: _resize,
    RandomCropOrPad: lambda step, args: ('crop', 'at random'),
    transforms.RandomCrop: _pad_crop,
    transforms.RandomHorizontalFlip: lambda step, args: ('left-right flip', f'probability {step.p:g}'),
    transforms.RandomVerticalFlip: lambda step, args: ('upside-down flip', f'probability {step.p:g}'),
    **dict.fromkeys(POLICIES, lambda step, args: ('policy', typed(args, 'aa'))),
    transforms.ColorJitter: _jitter,
    transforms.RandomGrayscale: lambda step, args: ('grayscale', f'probability {step.p:g}'),
    transforms.GaussianBlur: lambda step, args: ('blur', f'Gaussian, {step.kernel_size[0]} px'),
    RandomErasing: lambda step, args: ('random erasing', _erasing(step, args)),
}


def _views(args) -> Iterator[Augmentation]:
    """What makes several images of one, and what of ours does not work on batches."""
    if args.aug_splits:
        yield Augmentation('splits', f'{args.aug_splits} views of each image, the first one clean')
    for method in active_methods(args):
        strength = method.describe(args)
        if strength:
            yield Augmentation(method.name, strength)
    if args.aug_repeats:
        yield Augmentation('repeats', f'{args.aug_repeats:g} draws of each image per epoch, in different processes')


def _mixing(mixer: Mixup | NaFlexMixup, where: str, refined: bool) -> Augmentation:
    """Stock's label mixing."""
    minmax = getattr(mixer, 'cutmix_minmax', None)
    alphas = {'mixup': mixer.mixup_alpha, 'cutmix': mixer.cutmix_alpha}
    parts = {name: f'{name} alpha {alpha:g}' for name, alpha in alphas.items() if alpha > 0}
    if minmax is not None:
        parts['cutmix'] = 'cutmix side {:g} to {:g}'.format(*minmax)
    switches = len(parts) == 2
    if switches:
        parts['cutmix'] += f' ({mixer.switch_prob:g} of the draws)'
    probability = mixer.prob if isinstance(mixer, NaFlexMixup) else mixer.mix_prob
    mode = f', one draw per {mixer.mode}' if hasattr(mixer, 'mode') else ''
    strength = f'{", ".join(parts.values())}, probability {probability:g}{mode}, {where}'
    return Augmentation(' and '.join(parts), strength, refined, mixes=True, switches=switches)


def _rate_without_effect(args, phases: Phases) -> Iterator[str]:
    """A learning rate that the warm-up does not reach within the run; before the schedule it always does."""
    last = min(phases.scheduled, args.stop_epoch or phases.scheduled)
    if args.sched != 'none' and not args.warmup_prefix and args.warmup_epochs >= last:
        reached = args.warmup_lr + (args.lr - args.warmup_lr) * (last - 1) / args.warmup_epochs
        yield (
            f'--lr {args.lr:g} (never reached: the warm-up takes --warmup-epochs {args.warmup_epochs}, the run ends '
            f'after {last} at about {reached:.3g})'
        )


def _without_effect(args, found: list[Augmentation]) -> Iterator[str]:
    """Flags that do nothing beside what was found, each with the reason."""
    if args.no_aug:
        given = [
            spell(name, value)
            for name in (
                'aa',
                'reprob',
                *(name for name, default in OF_ERASING.items() if vars(args)[name] != default),
                'vflip',
                'train_crop_mode',
                'color_jitter_prob',
                'grayscale_prob',
                'gaussian_blur_prob',
            )
            if (value := vars(args)[name])
        ]
        given = ', '.join(['crop, flip and color jitter', *given])
        yield f'{given} (--no-aug: the loader resizes and crops the centre)'
    elif args.aa and args.color_jitter and all(each.name != 'color jitter' for each in found):
        default = ', the default' if args.color_jitter == DEFAULT_JITTER else ''
        yield f'--color-jitter {args.color_jitter:g}{default} (--aa {typed(args, "aa")} takes its place)'
    if args.naflex_loader and args.train_crop_mode and not args.no_aug:
        yield f'--train-crop-mode {args.train_crop_mode} (--naflex-loader crops to sequences)'
    if not any(each.mixes for each in found):
        yield from _idle(args, OF_MIXING, 'no labels are mixed')
    elif 0 < args.mixup_switch_prob < 1 and not any(each.switches for each in found):
        yield from _idle(args, {'mixup_switch_prob': 0.5}, 'of mixup and CutMix only one is on')
    if not args.no_aug and not any(each.erases for each in found):
        yield from _idle(args, OF_ERASING, 'nothing is erased, since --reprob is 0')
    if not args.train_img_sizes:
        yield from _idle(args, OF_SIZES, 'all images have one size without --train-img-sizes')


def _idle(args, defaults: Mapping[str, Any], reason: str) -> Iterator[str]:
    """Settings that were given a value and have nothing to set, in one line."""
    given = [spell(name, value) for name, default in defaults.items() if (value := vars(args)[name]) != default]
    if given:
        yield f'{", ".join(given)} ({reason})'
