"""Optimizer, learning rate and its schedule."""

import argparse
import logging
import math
import numbers
from typing import Any

import timm.optim
import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask

from keepaug.console.errors import first_line
from keepaug.training.early_exit_task import add_head, find_early_exit
from keepaug.training.phases import Phases, last_epoch

_logger = logging.getLogger('train')

# Of an epoch, where a schedule is tried before there are images to count.
TYPICAL_UPDATES = 1000


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
        ValueError: The flags do not fit the optimizer.
    """
    early_exit = find_early_exit(task)
    module: Any = task.get_trainable_module()
    if early_exit is not None:
        module = module.backbone
    optimizer = _create_optimizer(args, module)
    if early_exit is not None:
        add_head(optimizer, early_exit, args.weight_decay)
    if args.rank == 0:
        settings = ', '.join(f'{k}: {v}' for k, v in {**optimizer.defaults, 'weight_decay': args.weight_decay}.items())
        _logger.info(f'Created {type(optimizer).__name__} ({args.opt}) optimizer: {settings}')
    return optimizer


def _create_optimizer(args, trained: torch.nn.Module | list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    try:
        return create_optimizer_v2(trained, **optimizer_kwargs(cfg=args), **args.opt_kwargs)
    except (TypeError, ValueError, AssertionError, LookupError, ImportError, AttributeError) as error:
        keywords = ' '.join(f'{name}={value}' for name, value in args.opt_kwargs.items())
        raise ValueError(
            f'--opt {args.opt} cannot be built with its flags{" and --opt-kwargs " * bool(keywords)}{keywords} '
            f'({first_line(error)}): change or drop them.'
        ) from error


def needs_cuda(args) -> bool:
    """Whether `--opt` is of a package that works on CUDA alone, as timm tells."""
    about = timm.optim.get_optimizer_info(args.opt.lower().split('_')[-1])
    return isinstance(about.opt_class, str) and about.opt_class.startswith(('apex.', 'bitsandbytes.'))


def check_optimizer(args) -> torch.optim.Optimizer:
    """Builds the optimizer around a weight that is nobody's, so that flags that do not fit are said before all else.

    Args:
        args: Options; the learning rate may still be unset.

    Raises:
        ValueError: The flags do not fit the optimizer.
    """
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    return _create_optimizer(argparse.Namespace(**{**vars(args), 'lr': args.lr or args.lr_base}), [weight])


def check_schedule(args) -> None:
    """Goes through the schedule of a run beforehand.

    Raises:
        ValueError: It gives a learning rate that is no number, or `--stop-epoch` lies beyond it.
    """
    optimizer = check_optimizer(args)
    scheduler, epochs = _create_scheduler(args, optimizer, TYPICAL_UPDATES)
    if scheduler is None:
        return
    for epoch in {0, 1, args.warmup_epochs, epochs // 2, epochs - 1}:
        problem = ''
        try:
            if args.sched_on_updates:
                scheduler.step_update(epoch * TYPICAL_UPDATES)
            else:
                scheduler.step(epoch)
            rates = [group['lr'] for group in optimizer.param_groups]
            if not all(isinstance(rate, numbers.Real) and math.isfinite(rate) for rate in rates):
                problem = f'the learning rate {rates[0]}'
        except (ArithmeticError, ValueError, TypeError) as error:
            problem = f'no learning rate ({first_line(error)})'
        if problem:
            raise ValueError(f'--sched {args.sched} with its flags gives {problem} at epoch {epoch}: change them.')
    last_epoch(args, Phases(epochs, args.refine_epochs).total)


def _create_scheduler(
    args, optimizer: torch.optim.Optimizer, updates_per_epoch: int, decreasing_metric: bool = False
) -> tuple[Scheduler | None, int]:
    """timm's schedule, None for `--sched none`, and its epochs."""
    try:
        return create_scheduler_v2(
            optimizer,
            **scheduler_kwargs(args, decreasing_metric=decreasing_metric),
            updates_per_epoch=updates_per_epoch,
        )
    except (TypeError, ValueError, AssertionError, LookupError, ArithmeticError) as error:
        raise ValueError(
            f'--sched {args.sched} cannot be built with its flags ({first_line(error)}): change them.'
        ) from error


def build_scheduler(
    args,
    optimizer: torch.optim.Optimizer,
    batches_per_epoch: int,
    start_epoch: int,
    decreasing_metric: bool,
) -> tuple[Scheduler | HeldRate, int]:
    """The learning rate schedule, already at `start_epoch`, and the number of epochs of the whole run."""
    updates_per_epoch = math.ceil(batches_per_epoch / args.grad_accum_steps)
    scheduler, epochs = _create_scheduler(args, optimizer, updates_per_epoch, decreasing_metric)
    if scheduler is not None and start_epoch > 0:
        if args.sched_on_updates:
            scheduler.step_update(start_epoch * updates_per_epoch)
        else:
            scheduler.step(start_epoch)
    if args.rank == 0:
        unit = 'update' if args.sched_on_updates else 'epoch'
        _logger.info(f'Scheduled epochs: {epochs}. LR stepped per {unit}.')
    return HeldRate() if scheduler is None else scheduler, epochs
