"""Going on from a checkpoint."""

import argparse
import logging
import os
from typing import Any

import torch
from timm.task import TrainingTask, load_task_ema_checkpoint, resume_task_checkpoint

from keepaug.console.errors import first_line
from keepaug.files.checkpoints import LAST, check_checkpoint, find_weights, recorded_classes
from keepaug.methods.registry import active_methods
from keepaug.models.loading import UNFIT, tell_misfit
from keepaug.record.history import check_run
from keepaug.record.optimizer_state import check_optimizer_state, check_scaler_state, find_misfit
from keepaug.record.run_folder import run_folder
from keepaug.training.early_exit_task import checkpoint_optimizer, find_early_exit
from keepaug.training.model import check_start
from keepaug.training.recycling import RecyclingTask

_logger = logging.getLogger('train')


def find_resume(args) -> str:
    """The checkpoint to resume from; `auto` is the last one in the run's own folder, or none in a new folder."""
    if args.resume != 'auto':
        return args.resume
    last = os.path.join(run_folder(args), LAST)
    return last if os.path.exists(last) else ''


def resume(
    args, task: TrainingTask, optimizer: torch.optim.Optimizer, scaler, held: dict[str, Any] | None = None
) -> int:
    """Restores weights, and optimizer and scaler unless `--no-resume-opt`, and gives the epoch to start with.

    Args:
        args: Options.
        task: What trains.
        optimizer: Optimizer of the run.
        scaler: Loss scaler of the run, or None.
        held: What the checkpoint of `--resume` holds, where somebody has read it already.

    Raises:
        ValueError: The checkpoint cannot be read, or is of another model.
    """
    resumed_epoch = None
    if args.resume:
        held = check_resumed(args, find_early_exit(task) is not None, scaler, held)
        _log_early_head(held, task)
        _check_classes(held, args)
        _tell_maps(args, task)
        try:
            resumed_epoch = resume_task_checkpoint(
                task,
                args.resume,
                optimizer=None if args.no_resume_opt else checkpoint_optimizer(task, optimizer),
                loss_scaler=None if args.no_resume_opt else scaler,
                log_info=args.rank == 0,
            )
            misfit = '' if args.no_resume_opt else find_misfit(optimizer)
            if misfit:
                raise ValueError(misfit)
        except UNFIT as error:
            raise ValueError(_mismatch(args, error)) from error
    if args.start_epoch is not None:
        return args.start_epoch
    return resumed_epoch or 0


def check_resumed(args, early_exit: bool = False, scaler=None, held: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the checkpoint of `--resume` holds, after a look at all that a run takes from it.

    Args:
        args: Options.
        early_exit: Whether the run has an early head, whose optimizer's state stands apart.
        scaler: Loss scaler of the run, or None.
        held: What it holds, where it has been read already.

    Raises:
        ValueError: It cannot be read, or holds what no run writes.
    """
    source = f'--resume {args.resume}'
    held = held or check_checkpoint(args.resume, '--resume', of_run=True)
    check_run(held, source, needs_epoch=args.start_epoch is None)
    if args.model_ema:
        find_weights(held, source, averaged=True)
    if not args.no_resume_opt:
        check_optimizer_state(held.get('optimizer'), source)
        of_head = (held.get('task_state') or {}).get('early_exit_optimizer')
        if early_exit and of_head is not None:
            check_optimizer_state(of_head, source, 'early_exit_optimizer')
        if scaler is not None and scaler.state_dict_key in held:
            check_scaler_state(held[scaler.state_dict_key], source)
    return held


def check_weight_files(args) -> None:
    """Looks at every file of weights that the flags name, as a run would before it takes them up.

    Raises:
        ValueError: One cannot be read, or holds what no run takes up.
    """
    check_start(args)
    files = {'--kd-pretrained-path': args.kd_pretrained_path} if args.kd_pretrained_path else {}
    for method in active_methods(args):
        files |= method.weight_files(args)
    for flag, path in files.items():
        check_checkpoint(path, flag, averaged=True)
    resumed = find_resume(args)
    if resumed:
        check_resumed(argparse.Namespace(**{**vars(args), 'resume': resumed}))


def resume_ema(args, task: TrainingTask) -> None:
    """Restores averaged weights, or starts the average from the resumed plain ones where the file has none."""
    try:
        load_task_ema_checkpoint(task, args.resume)
    except UNFIT as error:
        raise ValueError(_mismatch(args, error)) from error


def _log_early_head(checkpoint: dict[str, Any], task: TrainingTask) -> None:
    """Says where a run goes on with or without the early head that the one before did not have, or had."""
    had, has = 'early_exit' in (checkpoint.get('task_state') or {}), find_early_exit(task) is not None
    if has and not had:
        _logger.info('The checkpoint holds no early head, so the head starts from scratch.')
    elif had and not has:
        _logger.info('The early head of the checkpoint is dropped; --early-exit would keep it.')


def _check_classes(checkpoint: dict[str, Any], args) -> None:
    """Refuses to go on with a run whose classes had other numbers, unless `--class-map` says that this is meant."""
    held = recorded_classes(checkpoint, f'--resume {args.resume}')
    if args.class_map or not held or not args.class_to_idx:
        return
    for name in [*held, *args.class_to_idx]:
        before, now = held.get(name, 'none'), args.class_to_idx.get(name, 'none')
        if before != now:
            raise ValueError(
                f'--resume {args.resume} continues a run in which class {name} had number {before}, but here it has '
                f'{now}: restore the class folders of that run, give the numbers with --class-map, or use its weights '
                'for other data with --initial-checkpoint.'
            )


def _tell_maps(args, task: TrainingTask) -> None:
    """Says where a run begins without the maps of the one before."""
    if isinstance(task, RecyclingTask) and not args.exact_resume:
        _logger.info(
            'Without --exact-resume the saliency maps of the earlier run are lost: each image is cut blindly until '
            'it has been seen again.'
        )


def _mismatch(args, error: Exception) -> str:
    if isinstance(error, (KeyError, ValueError)):  # the optimizer; weights that do not fit are a RuntimeError
        return (
            f'--resume {args.resume} was written with an optimizer other than --opt {args.opt} ({first_line(error)}): '
            'resume with its --opt, or with --no-resume-opt.'
        )
    return (
        f'--resume {args.resume} does not fit --model {args.model} with {args.num_classes} classes '
        f'({tell_misfit(error)}): resume with the flags of the run that wrote it.'
    )
