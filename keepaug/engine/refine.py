"""Refinement: the last epochs of a run on lightly augmented images.

He et al., Data Augmentation Revisited: Rethinking the Distribution Gap between Clean and Augmented Data, 2019.

Crop and flip stay; all that changes an image further, or its label, is off. What happens in loader workers reads one
number in shared memory, so that a change reaches workers that run already, forked or spawned; what happens on the
device is told directly.
"""
import csv
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.data import Mixup
from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from torchvision import transforms

from keepaug.engine.copies import Copies, change_transform
from keepaug.engine.data import drop_prefetched
from keepaug.engine.loop import mean_lr
from keepaug.engine.pair import PairTransform
from keepaug.engine.task import stop_mixing, weaken
from keepaug.engine.tracking import is_decreasing, tracked_metric

_logger = logging.getLogger('train')

# Steps of a training transform beyond crop and flip. RandomApply is what timm gives colour jitter and blur a
# probability with.
INTENSIVE = (
    AugMixAugment, AutoAugment, RandAugment, RandomErasing,
    transforms.ColorJitter, transforms.RandomApply, transforms.RandomGrayscale,
)
# Schedules whose last learning rate is nearly zero: nothing would be refined at it. A hundredth of the peak is where
# the paper's step schedules end.
FALLING = ('cosine', 'tanh', 'poly', 'wsd', 'rsqrt')
LEAST_SHARE = 0.01


class Fading:
    """A step of a transform that is applied with a probability which can change while workers run.

    Args:
        step: Takes and gives an image.
        strength: One number in shared memory: the probability. At 1 nothing is drawn.
    """

    def __init__(self, step: Callable, strength: torch.Tensor):
        self.step = step
        self.strength = strength

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.step})'

    def __call__(self, image):
        strength = self.strength.item()
        applied = strength >= 1. or strength > 0. and torch.rand(()).item() < strength
        return self.step(image) if applied else image


def fade_steps(transform: Callable, strength: torch.Tensor) -> Callable:
    """The same transform with all that is intensive in it subject to `strength`."""
    if isinstance(transform, transforms.Compose):
        return transforms.Compose([fade_steps(step, strength) for step in transform.transforms])
    if isinstance(transform, Copies):
        return Copies(fade_steps(transform.transform, strength), transform.copies)
    if isinstance(transform, PairTransform):
        return PairTransform(
            transform.crop, fade_steps(transform.policy, strength), fade_steps(transform.convert, strength))
    return Fading(transform, strength) if isinstance(transform, INTENSIVE) else transform


@dataclass(frozen=True)
class Phases:
    """Which epochs are trained how strongly augmented.

    Attributes:
        scheduled: Epochs of the learning rate's schedule.
        refined: Epochs after them, without intensive augmentation.
        fading: The last scheduled epochs, over which augmentation falls linearly to zero.
    """
    scheduled: int
    refined: int = 0
    fading: int = 0

    @property
    def total(self) -> int:
        return self.scheduled + self.refined

    def ends(self, epoch: int) -> bool:
        """Whether a phase that is reported on ends with this epoch."""
        return epoch + 1 in (self.scheduled, self.total)

    def strength(self, epoch: int) -> float:
        """Share of the augmentation's full strength in an epoch."""
        if not self.refined:
            return 1.
        return min(1., max(0., (self.scheduled - epoch) / (self.fading + 1)))

    def name(self, epoch: int) -> str:
        """What `summary.csv` calls an epoch's phase."""
        return {0.: 'refined', 1.: 'augmented'}.get(self.strength(epoch), 'fading')


def span(first: int, last: int) -> str:
    """Epochs from the first to the last, in words."""
    return f'epoch {first}' if first == last else f'epochs {first} to {last}'


class Refinement:
    """Takes a run from phase to phase.

    Args:
        phases: Which epoch belongs where.
        loader: Training batches; their transform is made to obey.
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
            least_share: float = 0.,
            last_update: int = 0,
    ):
        self.phases = phases
        self.loader = loader
        self.task = task
        self.mixup_fn = mixup_fn
        self.lr = lr
        self.least_share = least_share
        self.last_update = last_update
        self.strength = torch.ones((), dtype=torch.float64).share_memory_()
        change_transform(loader.dataset, lambda transform: fade_steps(transform, self.strength))
        # The prefetcher's eraser works on the device, in this process.
        self.eraser = getattr(loader, 'random_erasing', None)
        self.erasing = self.eraser.probability if self.eraser is not None else 0.

    def begin(self, epoch: int, optimizer: torch.optim.Optimizer, scheduler: Scheduler | None) -> Scheduler | None:
        """Sets augmentation and learning rate for an epoch; to be called before its first batch is asked for.

        Returns:
            The scheduler to go on with; None once the learning rate is held.
        """
        self._augment(self.phases.strength(epoch))
        if epoch < self.phases.scheduled:
            return scheduler
        self._hold_learning_rate(optimizer, scheduler)
        if self.task.verbose and (scheduler is not None or epoch == self.phases.scheduled):
            _logger.info(
                f'Refinement: {span(epoch, self.phases.total - 1)} without intensive augmentation, '
                f'learning rate held at {mean_lr(optimizer):.3g}.')
        return None

    def _augment(self, strength: float) -> None:
        if strength != self.strength.item():
            self.strength.fill_(strength)
            drop_prefetched(self.loader)
        weaken(self.task, strength)
        if self.eraser is not None:
            self.eraser.probability = self.erasing * strength
            self.loader.random_erasing = self.eraser if strength > 0. else None
        if strength <= 0.:
            stop_mixing(self.loader, self.mixup_fn, self.task)

    def _hold_learning_rate(self, optimizer: torch.optim.Optimizer, scheduler: Scheduler | None) -> None:
        if self.lr is None and scheduler is not None:
            # One of the two counts; a schedule passes over calls in the other unit.
            scheduler.step(self.phases.scheduled - 1)
            scheduler.step_update(self.last_update)
        for group in optimizer.param_groups:
            scale = group.get('lr_scale', 1.)
            if self.lr is not None:
                group['lr'] = self.lr * scale
            elif scheduler is not None:
                group['lr'] = max(group['lr'], group['initial_lr'] * scale * self.least_share)


def build_refinement(
        args, phases: Phases, loader, mixup_fn: Mixup | None, task: TrainingTask) -> Refinement | None:
    """The refinement that `--refine-epochs` asks for; None where it does not."""
    if not phases.refined:
        return None
    return Refinement(
        phases,
        loader,
        task,
        mixup_fn,
        lr=args.refine_lr,
        least_share=LEAST_SHARE if args.sched in FALLING else 0.,
        last_update=phases.scheduled * math.ceil(len(loader) / args.grad_accum_steps) - 1,
    )


def describe_refinement(args, phases: Phases, summary: str) -> str | None:
    """What refinement changed, in a line: best and last value of the tracked metric before and after.

    Args:
        args: Options.
        phases: Phases of the run.
        summary: The run's `summary.csv`, which also knows the epochs before a resume.

    Returns:
        None where either phase has no row.
    """
    if not os.path.exists(summary):
        return None
    metric = ('eval_' if args.val_split else 'train_') + tracked_metric(args)
    with open(summary, newline='') as file:
        rows = [(int(row['epoch']), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]
    best = min if is_decreasing(args) else max
    parts = []
    for name, of_phase in (
            ('before refinement', [row for row in rows if row[0] < phases.scheduled]),
            ('after', [row for row in rows if row[0] >= phases.scheduled])):
        if not of_phase:
            return None
        (best_epoch, best_value), (last_epoch, last_value) = best(of_phase, key=lambda row: row[1]), of_phase[-1]
        parts.append(f'{name} best {best_value:.4g} (epoch {best_epoch}), last {last_value:.4g} (epoch {last_epoch})')
    return f'{metric}: ' + '; '.join(parts)
