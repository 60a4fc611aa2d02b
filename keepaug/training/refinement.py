"""Refinement: the last epochs of a run on lightly augmented images.

He et al., Data Augmentation Revisited: Rethinking the Distribution Gap between Clean and Augmented Data, 2019.

Crop and flip stay, unless they are to go too; all that changes an image further, or its label, is off. What happens in
loader workers reads one number in shared memory, so that a change reaches workers that run already, forked or spawned;
what happens on the device is told directly.
"""

import logging
import math

import torch
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask

from keepaug.data.loaders import drop_prefetched
from keepaug.data.transform import find_changes, shared_strength
from keepaug.training.loop import mean_lr
from keepaug.training.phases import Phases, span
from keepaug.training.schedule import HeldRate
from keepaug.training.task import stop_mixing, weaken

_logger = logging.getLogger('train')

# Schedules whose last learning rate is nearly zero: nothing would be refined at it. A hundredth of the peak is where
# the paper's step schedules end.
FALLING = ('cosine', 'tanh', 'poly', 'wsd', 'rsqrt')
LEAST_SHARE = 0.01


class Refinement:
    """Takes a run from phase to phase.

    Args:
        phases: Which epoch belongs where.
        loader: Training batches, of a data set whose transform fades.
        task: What augments batches on the device.
        mixup_fn: Stock's mixing on the device, or None.
        lr: Learning rate of the refined epochs; None for the last scheduled one.
        least_share: Least learning rate of the refined epochs relative to the peak, where `lr` is None.
        last_update: Number of the last scheduled update.
    """

    def __init__(
        self,
        phases: Phases,
        loader,
        task: TrainingTask,
        mixup_fn: Mixup | None = None,
        lr: float | None = None,
        least_share: float = 0.0,
        last_update: int = 0,
    ):
        self.phases = phases
        self.loader = loader
        self.task = task
        self.mixup_fn = mixup_fn
        self.lr = lr
        self.least_share = least_share
        self.last_update = last_update
        strength = find_changes(loader.dataset).strength
        self.strength = shared_strength() if strength is None else strength
        # The prefetcher's eraser works on the device, in this process.
        self.eraser = getattr(loader, 'random_erasing', None)
        self.erasing = self.eraser.probability if self.eraser is not None else 0.0

    def hold_rate(
        self,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler | HeldRate,
    ) -> Scheduler | HeldRate:
        """Holds the learning rate in a refined epoch.

        Returns:
            The schedule to go on with.
        """
        if epoch < self.phases.scheduled:
            return scheduler
        was_held = isinstance(scheduler, HeldRate)
        self._hold_learning_rate(optimizer, scheduler)
        if self.task.verbose and (not was_held or epoch == self.phases.scheduled):
            _logger.info(
                f'Refinement: {span(epoch, self.phases.total - 1)} without intensive augmentation, '
                f'learning rate held at {mean_lr(optimizer):.3g}.'
            )
        return HeldRate()

    def set_strength(self, epoch: int) -> None:
        """Sets how strongly an epoch's images are augmented; to be called before its first batch is asked for."""
        strength = self.phases.strength(epoch)
        if strength != self.strength.item():
            self.strength.fill_(strength)
            drop_prefetched(self.loader)
        weaken(self.task, strength)
        if self.eraser is not None:
            self.eraser.probability = self.erasing * strength
            self.loader.random_erasing = self.eraser if strength > 0.0 else None
        if strength <= 0.0:
            stop_mixing(self.loader, self.mixup_fn, self.task)

    def _hold_learning_rate(self, optimizer: torch.optim.Optimizer, scheduler: Scheduler | HeldRate) -> None:
        scheduled = not isinstance(scheduler, HeldRate)
        if self.lr is None and scheduled:
            # One of the two counts; a schedule passes over calls in the other unit.
            scheduler.step(self.phases.scheduled - 1)
            scheduler.step_update(self.last_update)
        for group in optimizer.param_groups:
            scale = group.get('lr_scale', 1.0)
            if self.lr is not None:
                group['lr'] = self.lr * scale
            elif scheduled:
                group['lr'] = max(group['lr'], group['initial_lr'] * scale * self.least_share)


class NoRefinement:
    """Every epoch is augmented in full and keeps to the schedule."""

    def set_strength(self, epoch: int) -> None:
        pass

    def hold_rate(
        self,
        epoch: int,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler | HeldRate,
    ) -> Scheduler | HeldRate:
        return scheduler


def build_refinement(
    args, phases: Phases, loader, mixup_fn: Mixup | None, task: TrainingTask
) -> Refinement | NoRefinement:
    """The refinement that `--refine-epochs` asks for."""
    if not phases.refined:
        return NoRefinement()
    return Refinement(
        phases,
        loader,
        task,
        mixup_fn,
        lr=args.refine_lr,
        least_share=LEAST_SHARE if args.sched in FALLING else 0.0,
        last_update=phases.scheduled * math.ceil(len(loader) / args.grad_accum_steps) - 1,
    )
