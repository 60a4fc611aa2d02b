"""Optimizer, learning rate and its schedule."""

import logging
import math

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask

from keepaug.console.errors import first_line
from keepaug.training.early_exit_task import add_head, find_early_exit

_logger = logging.getLogger('train')


class HeldRate:
    """Stands for a schedule where there is none: the learning rate stays what it is."""

    def step(self, epoch: int, metric: float | None = None) -> None:
        pass

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        pass


def resolve_learning_rate(args, batch_size: float) -> None:
    """Fills `args.lr` where it is unset or 0 from `--lr-base` and the images per update.

    Args:
        args: Options.
        batch_size: Images per batch and process; the schedule's average under `--train-img-sizes`. Copies that
            augmentation adds to a batch do not count.
    """
    if args.lr:
        return
    global_batch_size = batch_size * args.world_size * args.grad_accum_steps
    ratio = global_batch_size / args.lr_base_size
    scale = args.lr_base_scale
    if not scale:
        name = args.opt.lower()
        scale = 'sqrt' if 'ada' in name or 'lamb' in name else 'linear'
    args.lr = args.lr_base * (math.sqrt(ratio) if scale == 'sqrt' else ratio)
    if args.rank == 0:
        _logger.info(
            f'Learning rate ({args.lr}) calculated from base learning rate ({args.lr_base}) '
            f'and effective global batch size ({global_batch_size}) with {scale} scaling.'
        )


def build_optimizer(args, task: TrainingTask) -> torch.optim.Optimizer:
    """The optimizer over the task's trainable module; an early head's parameters come last.

    Raises:
        ValueError: `--opt-kwargs` do not fit the optimizer.
    """
    early_exit = find_early_exit(task)
    module = task.get_trainable_module() if early_exit is None else task.get_trainable_module().backbone
    try:
        optimizer = create_optimizer_v2(module, **optimizer_kwargs(cfg=args), **args.opt_kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f'--opt {args.opt} with its flags and --opt-kwargs {args.opt_kwargs} cannot be built: {first_line(error)}.'
        ) from error
    if early_exit is not None:
        add_head(optimizer, early_exit, args.weight_decay)
    if args.rank == 0:
        settings = ', '.join(f'{k}: {v}' for k, v in {**optimizer.defaults, 'weight_decay': args.weight_decay}.items())
        _logger.info(f'Created {type(optimizer).__name__} ({args.opt}) optimizer: {settings}')
    return optimizer


def build_scheduler(
    args,
    optimizer: torch.optim.Optimizer,
    batches_per_epoch: int,
    start_epoch: int,
    decreasing_metric: bool,
) -> tuple[Scheduler | HeldRate, int]:
    """The learning rate schedule, already at `start_epoch`, and the number of epochs of the whole run."""
    updates_per_epoch = math.ceil(batches_per_epoch / args.grad_accum_steps)
    scheduler, epochs = create_scheduler_v2(
        optimizer, **scheduler_kwargs(args, decreasing_metric=decreasing_metric), updates_per_epoch=updates_per_epoch
    )
    if scheduler is not None and start_epoch > 0:
        if args.sched_on_updates:
            scheduler.step_update(start_epoch * updates_per_epoch)
        else:
            scheduler.step(start_epoch)
    if args.rank == 0:
        unit = 'update' if args.sched_on_updates else 'epoch'
        _logger.info(f'Scheduled epochs: {epochs}. LR stepped per {unit}.')
    return HeldRate() if scheduler is None else scheduler, epochs
