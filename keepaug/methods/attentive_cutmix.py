"""Attentive CutMix (Walawalkar et al., 2020): `--attentive-cutmix`, and the teacher that attends."""

import argparse
import logging
import os
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.data import resolve_input_data_config
from timm.models import load_state_dict, resolve_model_input_args
from torch import nn

from keepaug.augment import AttentiveCutMix
from keepaug.console.errors import first_line
from keepaug.console.processes import is_first_process
from keepaug.files.checkpoints import check_checkpoint
from keepaug.methods.method import Flag, Method, Need, Refusal
from keepaug.methods.stock_mixing import MIXING_OFF, partner_settings
from keepaug.models.described import (
    check_local,
    describe,
    described_name,
    described_size,
    model_arguments,
    same_architecture,
)
from keepaug.models.early_exit import backbone_of
from keepaug.models.loading import UNFIT, classifiers, one_short_try
from keepaug.models.names import FOLDER, model_source, unknown_model
from keepaug.models.recorded import check_images, check_recorded
from keepaug.ranges import Range

_logger = logging.getLogger('train')

PAPERS_TEACHER = 'resnet152'
SELF = 'self'


class AttentiveCutMixMethod(Method):
    """Moves the patches that a teacher attends to most into another image."""

    name = 'attentive-cutmix'
    title = 'attentive cutmix: move the patches a teacher attends to most'
    switch = Flag(
        '--attentive-cutmix',
        parameter='patches',
        type=int,
        alone=6,
        metavar='N',
        range=Range(least=1, whole=True),
        values='a number of patches, such as 6',
        help='replace N patches (without a value: 6) by those of another image that the teacher attends to most; '
        '--mixup-prob sets the probability, --mixup-mode the pairs',
    )
    settings = (
        Flag(
            '--attentive-teacher',
            type=str,
            default=PAPERS_TEACHER,
            metavar='NAME',
            help='the teacher: a pretrained timm model, or self for the model in training',
        ),
        Flag(
            '--attentive-teacher-checkpoint',
            type=str,
            metavar='PATH',
            resumable=True,
            help="the teacher's weights, instead of pretrained ones",
        ),
        Flag(
            '--attentive-teacher-size',
            parameter='teacher_size',
            type=int,
            metavar='PX',
            range=Range(least=1, most=2**14, whole=True, unit='pixel'),
            help="side of the images the teacher sees; unset: the teacher's own, with self that of the training images",
        ),
        Flag(
            '--attentive-grid',
            parameter='grid',
            type=int,
            default=7,
            metavar='G',
            range=AttentiveCutMix.ranges['grid'],
            in_image=True,
            help='patches along each side',
        ),
    )
    augments = ('attentive-cutmix',)
    region = 'replaced'
    # The region is where the partner is attended to: the map of the row's own image tells nothing of it.
    pictures = {'partner_image': ('partner', False), 'grid': ("partner's attention", True)}
    outlined = ('partner_image', 'grid')
    example = '--attentive-cutmix --attentive-teacher self'

    def needed(self, args: argparse.Namespace) -> Need:
        return self.needs | Need.OPEN_MODEL if args.attentive_teacher == SELF else self.needs

    def mixes_labels(self, args: argparse.Namespace) -> bool:
        return True

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return MIXING_OFF

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        if args.attentive_teacher == SELF:
            return {'attentive_teacher_checkpoint': 'with --attentive-teacher self, which reads none'}
        return {}

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        cells, path = args.attentive_grid**2, args.attentive_teacher_checkpoint
        yield (
            args.attentive_cutmix > cells,
            (
                f'--attentive-cutmix must be at most {cells}, the cells of --attentive-grid {args.attentive_grid}, '
                f'got {args.attentive_cutmix}.'
            ),
        )
        problem = '' if args.attentive_teacher == SELF else unknown_model(args.attentive_teacher)
        yield bool(problem), f'--attentive-teacher {args.attentive_teacher} {problem}'
        yield (
            path is not None and not os.path.exists(path),
            (f'--attentive-teacher-checkpoint {path} does not exist: give the path of a checkpoint file.'),
        )
        # Typed, it is no default: the checkpoint's own network must not come in its place.
        if path is not None and args.attentive_teacher == PAPERS_TEACHER and 'attentive_teacher' in args.typed:
            flag = '--attentive-teacher-checkpoint'
            described = describe(check_checkpoint(path, flag, averaged=True), path, flag)
            own = described_name(described, f'{flag} {path}', '--attentive-teacher') or PAPERS_TEACHER
            yield (
                not same_architecture(own, PAPERS_TEACHER),
                f'{flag} {path} is of {own}, not of --attentive-teacher {PAPERS_TEACHER}: drop one of the two.',
            )

    def weight_files(self, args: argparse.Namespace) -> dict[str, str]:
        path = args.attentive_teacher_checkpoint
        return {'--attentive-teacher-checkpoint': path} if path else {}

    def fetches_weights(self, args: argparse.Namespace) -> bool:
        name = args.attentive_teacher
        return name != SELF and not args.attentive_teacher_checkpoint and model_source(name)[0] != FOLDER

    def build(self, args: argparse.Namespace, model: nn.Module) -> AttentiveCutMix:
        model = backbone_of(model)
        settings: dict[str, Any] = dict(teacher=None, teacher_size=None)
        if args.attentive_teacher != SELF:
            settings = teacher_settings(args, model)
        if args.attentive_teacher_size is not None:
            settings['teacher_size'] = (args.attentive_teacher_size,) * 2
        return AttentiveCutMix(
            model,
            args.num_classes,
            patches=args.attentive_cutmix,
            grid=args.attentive_grid,
            **settings,
            **partner_settings(args),
        )


def teacher_settings(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """The teacher on the model's device and in its format, with the size and the normalisation of its images."""
    data = resolve_input_data_config(model, args=vars(args))
    channels, like = data['input_size'][0], next(model.parameters())
    teacher, own = build_teacher(args, channels)
    teacher.to(device=like.device, dtype=like.dtype)
    if args.channels_last:
        teacher.to(memory_format=torch.channels_last)
    return dict(
        teacher=teacher,
        teacher_size=own['input_size'][1:],
        normalisation=tuple(_per_channel(data[name], channels) for name in ('mean', 'std')),
        teacher_normalisation=tuple(_per_channel(own[name], channels) for name in ('mean', 'std')),
    )


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
    name, path, flag = args.attentive_teacher, args.attentive_teacher_checkpoint, '--attentive-teacher-checkpoint'
    recorded = describe(check_checkpoint(path, flag, averaged=True), path, flag) if path else {}
    if name == PAPERS_TEACHER:  # which nobody typed, though a recipe may say it, or the file is of the same
        name = described_name(recorded, f'{flag} {path}', '--attentive-teacher') or name
    if not same_architecture(recorded.get('model', name), name):
        recorded = {}
    arguments, size = model_arguments(recorded), described_size(recorded)
    images = {key: recorded[key] for key in ('mean', 'std') if key in recorded} | ({'img_size': size} if size else {})

    def build(pretrained: bool = False) -> nn.Module:
        return timm.create_model(
            pretrained=pretrained,
            **resolve_model_input_args(
                name,
                {**images, 'in_chans': channels},
                **{**arguments, 'num_classes': 0, 'in_chans': channels},
            ),
        )

    if path:
        check_recorded(build, arguments, os.path.getsize(path), f'{flag} {path}')
    check_local(name, '--attentive-teacher', build)
    try:
        with one_short_try(not path):
            teacher = build(pretrained=not path)
    except Exception as error:  # whatever a download or a model without weights raises
        reason = first_line(error).split('. ')[0]
        raise ValueError(
            f'--attentive-teacher {name} cannot be loaded ({reason}): give --attentive-teacher-checkpoint, another '
            'teacher, or --attentive-teacher self.'
        ) from error
    if path:
        _load_weights(teacher, name, path)
    if is_first_process():
        _logger.info(f'Teacher of --attentive-cutmix: {name}, from {path or "its pretrained weights"}')
    own = resolve_input_data_config(teacher, args=images)
    check_images(own, f'{flag} {path}' if path else f'--attentive-teacher {name}')
    return teacher.eval().requires_grad_(False), own


def _load_weights(teacher: nn.Module, name: str, path: str) -> None:
    """All weights but the classifier's from a checkpoint of the same model."""
    try:
        weights = load_state_dict(path)
        missing, unknown = teacher.load_state_dict(weights, strict=False)
        # What belongs to no classifier must fit: a part of another network attends to nothing. Some classifiers are a
        # norm or a hidden layer and the last one, which alone is named, of a common parent.
        heads = tuple(f'{head.rpartition(".")[0] or head}.' for head in classifiers(teacher))
        strange = [*missing, *(key for key in unknown if not key.startswith(heads))]
        if strange:
            raise RuntimeError(f'only one of the two has {strange[0]}')
    except UNFIT as error:
        raise ValueError(
            f'--attentive-teacher-checkpoint {path} does not fit --attentive-teacher {name} ({first_line(error)}): '
            f'name the model it was trained as.'
        ) from error


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A colour's statistics for images of other channels: their average for each."""
    values = tuple(values)
    return values if len(values) == channels else (sum(values) / len(values),) * channels
