"""From options to the label mixer: stock's mixup and cutmix on the device, or a method of ours."""
import argparse
import logging
from typing import Any

import timm
import torch
from timm.data import resolve_input_data_config
from timm.models import load_state_dict, resolve_model_input_args
from torch import nn

from keepaug.augment import BatchAugment, create_augment
from keepaug.console.errors import first_line
from keepaug.files.checkpoints import check_checkpoint
from keepaug.models.early_exit import EarlyExit

_logger = logging.getLogger('train')


def build_label_mixer(args, model: nn.Module) -> BatchAugment | None:
    """The mixer the flags ask for; None without one, and where keep-cut mixes labels itself.

    Stock's mixup and cutmix come here where an augmentation of ours is on.

    Args:
        args: Options returned by `keepaug.prepare`.
        model: The bare model in training, or an `EarlyExit` around it.

    Raises:
        ValueError: A teacher cannot be had, or a value does not fit.
    """
    model = model.backbone if isinstance(model, EarlyExit) else model
    for name, builder in BUILDERS.items():
        if getattr(args, name, None) is not None:
            return builder(args, model)
    if getattr(args, 'keep_cut', None) == 'cutmix' or not hasattr(getattr(args, 'stood_down', None), 'cutmix'):
        return None
    settings = stock_mixing(args, args.stood_down.cutmix)
    cuts = settings['cutmix_alpha'] > 0 or settings['cutmix_minmax'] is not None
    return create_augment('cutmix' if cuts else 'mixup', num_classes=args.num_classes, **settings)


def stock_mixing(args, cutmix_alpha: float) -> dict[str, Any]:
    """Hyper-parameters of stock's label mixers, which stood down for ours."""
    stock = args.stood_down
    return dict(
        mixup_alpha=stock.mixup,
        cutmix_alpha=cutmix_alpha,
        cutmix_minmax=stock.cutmix_minmax,
        # Another person's parser may lack it.
        switch_prob=getattr(args, 'mixup_switch_prob', 0.5),
        **_partners(args),
    )


def _partners(args) -> dict[str, Any]:
    """Stock's hyper-parameters that every mixer has."""
    return dict(
        prob=getattr(args, 'mixup_prob', 1.),
        mixing=getattr(args, 'mixup_mode', 'batch'),
        smoothing=getattr(args, 'smoothing', 0.),
    )


def _cutmix_variant(args, model: nn.Module) -> BatchAugment:
    return create_augment(
        'cutmix-variant', num_classes=args.num_classes, variant=args.cutmix_variant,
        fixed_size=args.cutmix_fixed_size, cutmix_alpha=args.stood_down.cutmix or 1., **_partners(args))


def _feature_cutmix(args, model: nn.Module) -> BatchAugment:
    return create_augment(
        'feature-cutmix', model=model, num_classes=args.num_classes, stages=read_stages(args.feature_cutmix),
        alpha=args.stood_down.cutmix or 1., **_partners(args))


def _manifold_mixup(args, model: nn.Module) -> BatchAugment:
    return create_augment(
        'manifold-mixup', model=model, num_classes=args.num_classes, stages=read_stages(args.manifold_mixup),
        alpha=args.stood_down.mixup or 1., **_partners(args))


def read_stages(text: str) -> tuple[int, ...] | None:
    """The stages that a flag names, '0,1,2' or 'all'; None for all."""
    return None if text == 'all' else tuple(int(number) for number in str(text).split(','))


def _attentive_cutmix(args, model: nn.Module) -> BatchAugment:
    data = resolve_input_data_config(model, args=vars(args))
    channels = data['input_size'][0]
    settings = dict(teacher=None, teacher_size=None)
    if args.attentive_teacher != 'self':
        teacher, own = build_teacher(args, channels)
        like = next(model.parameters())
        settings['teacher'] = teacher.to(device=like.device, dtype=like.dtype)
        if getattr(args, 'channels_last', False):
            teacher.to(memory_format=torch.channels_last)
        settings.update(
            teacher_size=own['input_size'][1:],
            normalisation=tuple(_per_channel(data[name], channels) for name in ('mean', 'std')),
            teacher_normalisation=tuple(_per_channel(own[name], channels) for name in ('mean', 'std')),
        )
    if args.attentive_teacher_size is not None:
        settings['teacher_size'] = (args.attentive_teacher_size,) * 2
    return create_augment(
        'attentive-cutmix', model=model, num_classes=args.num_classes, patches=args.attentive_cutmix,
        grid=args.attentive_grid, **settings, **_partners(args))


def build_teacher(args, channels: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network that attends, on the CPU: pretrained or from a checkpoint, frozen, without its classifier.

    Without a classifier it does not matter which classes it was trained on. Size and normalisation of its images are
    those of the run that wrote the checkpoint, where that holds the run's arguments.

    Args:
        args: Options with `attentive_teacher` and `attentive_teacher_checkpoint`.
        channels: Channels of the images.

    Returns:
        The teacher, and how images enter it, as timm's data configuration.

    Raises:
        ValueError: The weights cannot be had, or are of another model.
    """
    name, path = args.attentive_teacher, args.attentive_teacher_checkpoint
    recorded = _recorded(check_checkpoint(path, '--attentive-teacher-checkpoint')) if path else {}
    try:
        teacher = timm.create_model(pretrained=not path, **resolve_model_input_args(
            name, {**recorded, 'in_chans': channels, 'input_size': None},
            **{**(recorded.get('model_kwargs') or {}), 'num_classes': 0, 'in_chans': channels}))
    except Exception as error:  # whatever a download or a model without weights raises
        reason = first_line(error).split('. ')[0]
        raise ValueError(
            f'--attentive-teacher {name} cannot be had ({reason}): give --attentive-teacher-checkpoint, another teacher, '
            f'or --attentive-teacher self.') from error
    if path:
        _load_weights(teacher, name, path)
    if getattr(args, 'rank', 0) == 0:
        _logger.info(f'Teacher {name} attends for --attentive-cutmix, from {path or "its pretrained weights"}')
    return teacher.eval().requires_grad_(False), resolve_input_data_config(teacher, args=recorded)


def _recorded(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the model and the images of its run; nothing where it holds weights alone."""
    run = checkpoint.get('args')
    run = vars(run) if isinstance(run, argparse.Namespace) else {}
    recorded = {name: run[name] for name in ('img_size', 'mean', 'std', 'model_kwargs') if run.get(name)}
    if run.get('input_size'):
        recorded['img_size'] = tuple(run['input_size'][1:])
    return recorded


def _load_weights(teacher: nn.Module, name: str, path: str) -> None:
    """All weights but the classifier's from a checkpoint of the same model."""
    classifiers = teacher.pretrained_cfg.get('classifier') or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    try:
        weights = load_state_dict(path)
        missing, unknown = teacher.load_state_dict(weights, strict=False)
        # What belongs to no classifier must fit: a part of another network attends to nothing. Some classifiers are a
        # norm or a hidden layer and the last one, which alone is named, of a common parent.
        heads = tuple(f"{head.rpartition('.')[0] or head}." for head in classifiers)
        strange = [*missing, *(key for key in unknown if not key.startswith(heads))]
        if strange:
            raise RuntimeError(f'{strange[0]} is in one of the two only')
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f'--attentive-teacher-checkpoint {path} does not fit --attentive-teacher {name} ({first_line(error)}): '
            f'name the model it was trained as.') from error


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A colour's statistics for images of other channels: their average for each."""
    values = tuple(values)
    return values if len(values) == channels else (sum(values) / len(values),) * channels


# By the name of the argument that turns it on; one at most is on.
BUILDERS = {
    'attentive_cutmix': _attentive_cutmix,
    'cutmix_variant': _cutmix_variant,
    'feature_cutmix': _feature_cutmix,
    'manifold_mixup': _manifold_mixup,
}
