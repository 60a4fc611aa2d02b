"""The training task: model and loss, compiled and distributed."""

import inspect
import logging
import os
from typing import Any

import timm
import torch
from timm.data import Mixup
from timm.models import load_checkpoint, resolve_model_input_args
from timm.task import (
    ClassificationTask,
    FeatureDistillationTask,
    LogitDistillationTask,
    MultiLabelClassificationTask,
    TokenDistillationTask,
    TrainingTask,
)
from timm.utils import unwrap_model

from keepaug.console.errors import first_line
from keepaug.data.loaders import drop_prefetched
from keepaug.files.checkpoints import check_checkpoint
from keepaug.models.described import check_local, describe, described_size, model_arguments, same_architecture
from keepaug.models.loading import UNFIT, one_short_try, tell_misfit
from keepaug.models.recorded import check_recorded
from keepaug.ranges import any_of
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.loss import loss_kwargs
from keepaug.training.wrapped_task import WrappedTask

_logger = logging.getLogger('train')


def build_task(args, model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> TrainingTask:
    """The task of the run: classification, with one label or several, or distillation from `--kd-model-name`.

    Raises:
        ValueError: The teacher cannot be built, or loss flags contradict each other.
    """
    common = dict(criterion_kwargs=loss_kwargs(args), device=device, dtype=dtype, verbose=args.rank == 0)
    if args.task == 'multilabel':
        return MultiLabelClassificationTask(model, threshold=args.multilabel_threshold, **common)
    if not args.kd_model_name:
        return ClassificationTask(model, **common)
    distill = dict(
        student_model=model,
        teacher_model=_described_teacher(args, model, device, dtype) or args.kd_model_name,
        teacher_pretrained_path=args.kd_pretrained_path,
        distill_loss_weight=args.distill_loss_weight,
        task_loss_weight=args.task_loss_weight,
        **common,
    )
    kinds = {
        'logit': (LogitDistillationTask, dict(loss_type=args.kd_loss_type, temperature=args.kd_temperature)),
        'feature': (
            FeatureDistillationTask,
            dict(student_feature_dim=args.kd_student_feature_dim, teacher_feature_dim=args.kd_teacher_feature_dim),
        ),
        'token': (
            TokenDistillationTask,
            dict(distill_type=args.kd_token_distill_type, temperature=args.kd_temperature),
        ),
    }
    task_class, settings = kinds[args.kd_distill_type]
    check_local(args.kd_model_name, '--kd-model-name', lambda: timm.create_model(args.kd_model_name))
    try:
        with one_short_try(not args.kd_pretrained_path):
            return task_class(**settings, **distill)
    except OSError as error:  # what a failing download is, too
        raise ValueError(
            f'The weights of --kd-model-name {args.kd_model_name} cannot be loaded ({first_line(error)}): give a file '
            'with --kd-pretrained-path.'
        ) from error
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f'--kd-model-name {args.kd_model_name} cannot teach --model {args.model} by --kd-distill-type '
            f'{args.kd_distill_type}: {first_line(error)}.'
        ) from error


def _described_teacher(
    args, student: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> torch.nn.Module | None:
    """The teacher of `--kd-pretrained-path`, where its file says of it what timm, given its name, would not know.

    Raises:
        ValueError: The file cannot be read, or is of another model.
    """
    path, flag, name = args.kd_pretrained_path, '--kd-pretrained-path', args.kd_model_name
    if not path:
        return None
    described = describe(check_checkpoint(path, flag, averaged=True), path, flag)
    if not same_architecture(described.get('model', ''), name):  # what was typed wins, and must fit
        return None
    arguments, student = model_arguments(described), unwrap_model(student)
    size = described_size(described) if timm.models.get_pretrained_cfg_value(name, 'fixed_input_size') else None
    if not (arguments or size or {'gp', 'mean', 'std'} & described.keys()):
        return None

    def build() -> torch.nn.Module:
        return timm.create_model(
            **resolve_model_input_args(
                name,
                {'input_size': size and (student.in_chans, *size)},
                in_chans=student.in_chans,
                num_classes=student.num_classes,
                global_pool=described.get('gp'),
                **arguments,
            ),
        )

    check_recorded(build, arguments, os.path.getsize(path), f'{flag} {path}')
    try:
        teacher: Any = build()
        load_checkpoint(teacher, path, use_ema=True)
    except (*UNFIT, AssertionError) as error:
        raise ValueError(
            f'{flag} {path} does not fit --kd-model-name {name} with {student.num_classes} classes '
            f'({tell_misfit(error)}): give a teacher of the same classes, and the model it was trained as.'
        ) from error
    # Images reach the teacher as its own run prepared them.
    teacher.pretrained_cfg = {
        **teacher.pretrained_cfg,
        **{key: tuple(described[key]) for key in ('mean', 'std') if key in described},
    }
    return teacher.to(device=device, dtype=dtype)


def stop_mixing(loader, mixup_fn: Mixup | None, task: TrainingTask) -> None:
    """Switches label mixing off wherever it happens: in the collate function, on the device, or in the task."""
    if mixup_fn is not None:
        mixup_fn.mixup_enabled = False
    if getattr(loader, 'mixup_enabled', False):
        loader.mixup_enabled = False
        drop_prefetched(loader)
    if isinstance(task, AugmentedTask):
        task.stop_mixing()


def weaken(task: TrainingTask, strength: float) -> None:
    """Sets how strongly a task's own augmentations are applied: a share of their full strength, in [0, 1]."""
    if isinstance(task, AugmentedTask):
        for augment in task.augment.augments:
            augment.strength = strength


def augment_batch(
    task: TrainingTask, input: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A batch as a task would augment it on the device; unchanged where it does not."""
    return task.augment_batch(input, target) if isinstance(task, AugmentedTask) else (input, target)


def augmented_part(
    task: TrainingTask, input: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The images of a loader's batch that a task augments, with their targets where it looks at them."""
    return task.augmented_part(input, target) if isinstance(task, AugmentedTask) else (input, target)


def set_progress(task: TrainingTask, epoch: int, epochs: int) -> None:
    """Tells what grows with the training that an epoch begins: 0 in the first of all epochs, 1 in the last."""
    if isinstance(task, WrappedTask):
        task.set_progress(epoch / max(1, epochs - 1))


def compile_task(args, task: TrainingTask) -> None:
    """Compiles what trains and what is validated, and the average if there is one (`--torchcompile`).

    Raises:
        ValueError: The backend is unknown.
    """
    check_backend(args.torchcompile)
    task.compile(backend=args.torchcompile, mode=args.torchcompile_mode)
    if task.has_ema():
        task.compile_ema(backend=args.torchcompile, mode=args.torchcompile_mode)


def check_backend(name: str) -> None:
    """Refuses a backend of `--torchcompile` that torch does not know; it would say so in the first step.

    Raises:
        ValueError: The backend is unknown.
    """
    if name not in torch.compiler.list_backends(None):  # with those that are for debugging
        known = [backend for backend in torch.compiler.list_backends() if 'TESTING' not in backend]
        raise ValueError(f'--torchcompile {name} is not a backend of torch: choose {any_of(known)}.')


def distribute_task(args, task: TrainingTask, device: torch.device) -> None:
    """Wraps what trains in DDP; on the CPU, where stock fails, without device ids."""
    # torch 2.15 renames the argument and warns of the old name.
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel.__init__).parameters
    sync_buffers = 'forward_sync_buffers' if 'forward_sync_buffers' in known else 'broadcast_buffers'
    settings = {sync_buffers: not args.no_ddp_bb}
    if args.exact_resume and device.type == 'cpu':
        # After the first step of a process DDP regroups gradients, and three processes and more then sum them in
        # another order; a resumed run would have a first step in the middle. Not where it looks for unused parameters.
        settings['find_unused_parameters'] = True
        if args.rank == 0:
            _logger.info(
                'DDP may warn that it finds no unused parameters. --exact-resume lets it look for them all the same: a '
                'resumed run then sums gradients in the order of one that was not interrupted.'
            )
    task.prepare_distributed(device_ids=None if device.type == 'cpu' else [device], **settings)
