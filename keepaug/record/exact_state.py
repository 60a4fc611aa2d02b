"""What `--exact-resume` adds to checkpoints, so that a resumed run ends as one that was never stopped.

The streams are in `keepaug.data.seeding`. Here is what a checkpoint of stock's lacks beside them, the schedule's
state, and the flags that both parts of a run must share.
"""

import ast
import logging
import math
import os
from argparse import Namespace
from typing import Any

import torch
from timm.scheduler.plateau_lr import PlateauLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import unwrap_model

from keepaug.data.unlabelled import describe_further, find_groups
from keepaug.files.checkpoints import LAST, check_checkpoint
from keepaug.methods.method import spell
from keepaug.methods.refusals import all_flags
from keepaug.record.kept_maps import NoMaps, find_maps, maps_path
from keepaug.training.schedule import HeldRate

_logger = logging.getLogger('train')

KEY = 'exact_resume'
# What may differ from one part of a run to the next: where things lie, how batches reach the device, what is written.
MAY_DIFFER = {
    'rank',
    'local_rank',
    'device',  # differ between the processes of one run too; the type of device must agree
    'taken_over',
    'prefetcher',  # repeat others
    'class_to_idx',  # compared by every resumption
    'resume',
    'output',
    'experiment',
    'check',
    'data',
    'data_dir',
    'dataset_download',
    'class_map',
    'class_stats',
    'initial_checkpoint',
    'pretrained',
    'pretrained_path',
    'kd_pretrained_path',
    'workers',
    'worker_seeding',
    'pin_mem',
    'use_multi_epochs_loader',
    'synchronize_step',
    'stop_epoch',
    'epochs',  # the latter with a warning: a finished run may be trained on
    'checkpoint_hist',
    'recovery_interval',
    'log_interval',
    'save_images',
    'log_wandb',
    'wandb_project',
    'wandb_tags',
    'wandb_resume_id',
}
# What the parts must share beside flags.
NOT_TYPED = {'world_size': 'the number of processes', 'distributed': 'the use of torchrun'}


class StockResume:
    """What a run has without `--exact-resume`: it goes on as stock does, and adds nothing to checkpoints."""

    durable = False
    maps = NoMaps()
    resumed: dict[str, Any] | None = None

    def check_samples(self, args, dataset: Any) -> None:
        pass

    def restore(self, task: TrainingTask, optimizer: torch.optim.Optimizer, scheduler: Scheduler | HeldRate) -> None:
        pass

    def with_state(self, task: TrainingTask) -> 'TrainingTask | TaskWithState':
        return task


class ExactResume(StockResume):
    """The part of a run's checkpoints that stock has no place for.

    Args:
        flags: What the parts of the run must share, as text by name.
        resumed: The checkpoint the run goes on from, or None.
        path: Where that lies.
    """

    durable = True  # a checkpoint is on the disk before it takes its name

    def __init__(self, flags: dict[str, str], resumed: dict[str, Any] | None = None, path: str = ''):
        self.flags = flags
        self.resumed = resumed
        self.path = path
        self.samples: int | None = None
        self.further = ''
        self.optimizer: torch.optim.Optimizer  # from `restore` on
        self.scheduler: Scheduler | HeldRate = HeldRate()

    def check_samples(self, args, dataset: Any) -> None:
        """Takes down how many samples the training set has, and the names of further images: all that is compared.

        Raises:
            ValueError: The run that is resumed had others.
        """
        groups, folder = find_groups(dataset), args.data_dir or args.data
        samples, further = len(dataset if groups is None else groups.dataset), describe_further(dataset)
        source = f'--data-dir {folder}' if folder else f'--dataset {args.dataset}'
        held = {} if self.resumed is None else self.resumed[KEY]
        if held.get('samples', samples) != samples:
            raise ValueError(
                f'--exact-resume continues the same run, but the training set of {source} has {samples} samples and '
                f'had {held["samples"]} in {self.path}: give the data of that run, or drop --exact-resume.'
            )
        if held.get('further', further) != further:
            raise ValueError(
                f'--exact-resume continues the same run, but --uda-data-dir {args.uda_data_dir or "(not given)"} adds '
                f'{further or "no images"} and added {held["further"] or "no images"} in {self.path}: give that '
                'folder, or drop --exact-resume.'
            )
        self.samples, self.further = samples, further

    def restore(self, task: TrainingTask, optimizer: torch.optim.Optimizer, scheduler: Scheduler | HeldRate) -> None:
        """Brings all to where the next epoch begins; checkpoints hold the schedule and name the maps from now on."""
        self.optimizer, self.scheduler, self.maps = optimizer, scheduler, find_maps(task)
        resumed, self.resumed = self.resumed, None
        if resumed is None:
            return
        keep_formats(optimizer, resumed)
        held = resumed[KEY]
        self.maps.read(os.path.dirname(self.path), held.get('maps', ''))
        if len(held['lr']) != len(optimizer.param_groups):
            raise ValueError(
                f'--resume {self.path} holds {len(held["lr"])} learning rates, but the optimizer has '
                f'{len(optimizer.param_groups)} groups of weights: give the flags of that run, or drop --exact-resume.'
            )
        for group, lr in zip(optimizer.param_groups, held['lr']):
            group['lr'] = lr
        load_schedule_state(scheduler, held['schedule'])
        scheduler.step(resumed['epoch'] + 1, resumed['metric'])

    def with_state(self, task: TrainingTask) -> 'TaskWithState':
        """The task as a saver is to see it."""
        return TaskWithState(task, self)

    def state_dict(self) -> dict[str, Any]:
        """Plain values only, for checkpoints are read without running code."""
        return {
            'flags': self.flags,
            'samples': self.samples,
            'further': self.further,
            'lr': [group['lr'] for group in self.optimizer.param_groups],
            'schedule': schedule_state(self.scheduler),
            'maps': self.maps.name,
        }


class TaskWithState:
    """What a saver sees of a task: its state, and beside it that of `ExactResume`."""

    def __init__(self, task: TrainingTask, exact: ExactResume):
        self.task = task
        self.exact = exact

    def get_checkpoint_state(self, ema: bool = False, unwrap_fn=unwrap_model) -> dict[str, Any]:
        state = self.task.get_checkpoint_state(ema=ema, unwrap_fn=unwrap_fn)
        return state if ema else {**state, KEY: self.exact.state_dict()}


def schedule_state(scheduler: Scheduler | HeldRate) -> dict[str, Any] | None:
    """What a schedule knows beside flags and time. timm's own state lacks the plateau's epochs without progress."""
    if isinstance(scheduler, HeldRate):
        return None
    if not isinstance(scheduler, PlateauLRScheduler):
        return {}
    return {'lr_scheduler': scheduler.lr_scheduler.state_dict(), 'restore_lr': scheduler.restore_lr}


def load_schedule_state(scheduler: Scheduler | HeldRate, state: dict[str, Any] | None) -> None:
    """Restores what `schedule_state` gave."""
    if isinstance(scheduler, PlateauLRScheduler):
        state = state or {}
        counts = state.get('lr_scheduler')
        # torch would take over anything under any name.
        own = scheduler.lr_scheduler.state_dict()
        if not (
            isinstance(counts, dict) and {*counts} == {*own} and all(_is_like(counts[key], own[key]) for key in own)
        ):
            raise ValueError(
                'The checkpoint of --resume holds the state of a schedule other than --sched plateau: give the flags '
                'of its run, or drop --exact-resume.'
            )
        scheduler.lr_scheduler.load_state_dict(counts)
        scheduler.restore_lr = state.get('restore_lr')


def _is_like(value: Any, own: Any) -> bool:
    numbers = (int, float)
    return isinstance(value, numbers) if isinstance(own, numbers) else value is None or isinstance(value, type(own))


def keep_formats(optimizer: torch.optim.Optimizer, checkpoint: dict[str, Any]) -> None:
    """Gives the optimizer's state the number formats it was saved in; torch has made them those of the parameters."""
    optimizer = getattr(optimizer, '_base_optimizer', optimizer)  # of timm's Lookahead
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    head = (checkpoint.get('task_state') or {}).get('early_exit_optimizer') or {'state': {}}
    for index, saved in {**checkpoint['optimizer']['state'], **head['state']}.items():
        state = optimizer.state[parameters[index]]
        for name, value in saved.items():
            if isinstance(value, torch.Tensor) and value.dtype != state[name].dtype:
                state[name] = value.to(state[name].device, copy=True)


def open_exact_resume(args) -> StockResume:
    """What `--exact-resume` asks for, or stock's way.

    To be called where device and processes are known and nothing in `args` has been filled in yet.

    Raises:
        ValueError: The checkpoint is of another kind or of another run, or processes hold state that none saves.
    """
    if not args.exact_resume:
        return StockResume()
    if args.distributed and args.dist_bn not in ('reduce', 'broadcast') and not args.sync_bn:
        raise ValueError(
            f"--dist-bn '{args.dist_bn or ''}' leaves each process its own statistics, but checkpoints hold those of "
            'one: choose reduce or broadcast, or drop --exact-resume.'
        )
    # The number of processes comes first: where it differs, whether there is a group may differ too, which says less.
    given = {'world_size': args.world_size, **vars(args), **vars(args.taken_over)}
    ours = all_flags()
    flags = {
        name: repr(value)
        for name, value in given.items()
        if name not in MAY_DIFFER and not (name in ours and ours[name].resumable)
    }
    flags['device'] = str(args.device).partition(':')[0]
    if not args.resume:
        return ExactResume(flags)
    resumed = check_checkpoint(args.resume, '--resume', of_run=True)
    _check_kind(args.resume, resumed)
    if args.check:  # which is one process, whatever the run will be
        flags |= {name: resumed[KEY]['flags'].get(name, flags[name]) for name in NOT_TYPED}
    _check_flags(args.resume, resumed[KEY]['flags'], flags)
    if resumed[KEY].get('maps'):
        maps_path(os.path.dirname(args.resume), resumed[KEY]['maps'])
    if args.rank == 0 and args.epochs != resumed['args'].epochs:
        _logger.warning(
            f'--epochs is {args.epochs} and was {resumed["args"].epochs}: from here on the schedule is that of '
            f'{args.epochs} epochs. A run that was never stopped would have had it from the start.'
        )
    return ExactResume(flags, resumed, args.resume)


def _check_kind(path: str, checkpoint: dict[str, Any]) -> None:
    last = os.path.join(os.path.dirname(path), LAST)
    if 'epoch' in checkpoint and 'metric' not in checkpoint:
        raise ValueError(
            f'--resume {path} was written within an epoch, but --exact-resume continues at the start of one: give '
            f'{last}, or drop --exact-resume.'
        )
    if KEY not in checkpoint:
        raise ValueError(
            f'--resume {path} was written without --exact-resume and lacks the state it needs: drop --exact-resume.'
        )
    if not _is_sound(checkpoint):
        raise ValueError(
            f'--resume {path} is refused: no run writes what it holds as {KEY}, or as the arguments of its run. '
            '--initial-checkpoint loads only its weights.'
        )


def _is_sound(checkpoint: dict[str, Any]) -> bool:
    """Whether the parts of a checkpoint are what a run with `--exact-resume` writes there."""
    held, args, metric = checkpoint[KEY], checkpoint.get('args'), checkpoint['metric']
    if not isinstance(held, dict) or type(checkpoint.get('epoch')) is not int or checkpoint['epoch'] < 0:
        return False
    flags, rates, schedule = held.get('flags'), held.get('lr'), held.get('schedule')
    samples, further, maps = held.get('samples'), held.get('further', ''), held.get('maps', '')
    return (
        isinstance(flags, dict)
        and all(isinstance(text, str) for item in flags.items() for text in item)
        and isinstance(rates, list)
        and all(isinstance(rate, (int, float)) and 0 <= rate < math.inf for rate in rates)
        and 'schedule' in held
        and (schedule is None or isinstance(schedule, dict))
        and (samples is None or type(samples) is int and samples >= 0)
        and isinstance(further, str)
        and isinstance(maps, str)
        and isinstance(metric, (int, float))
        and isinstance(args, Namespace)
        and type(vars(args).get('epochs')) is int
        and args.epochs >= 0
    )


def _check_flags(path: str, held: dict[str, str], given: dict[str, str]) -> None:
    ours = all_flags()
    # A flag that is newer than the checkpoint had the effect of its default.
    held = {**{name: repr(ours[name].unset) for name in given if name in ours}, **held}
    for name in [*given, *(name for name in held if name not in given and not (name in ours and ours[name].resumable))]:
        now, before = (
            'not given' if flags.get(name) in (None, 'None') else _as_in_yaml(flags[name]) for flags in (given, held)
        )
        if now != before:
            raise ValueError(
                f'--exact-resume continues the same run, but {_spelled(name)} is {now} and was {before} in {path}: '
                'give the flags of that run, or drop --exact-resume.'
            )


def _as_in_yaml(text: str) -> str:
    """A value as text, as if `args.yaml` had held it, which knows no tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    try:
        return repr(plain(ast.literal_eval(text)))
    except (ValueError, SyntaxError):  # not a finite number, say
        return text


def _spelled(name: str) -> str:
    return NOT_TYPED.get(name, spell(name))
