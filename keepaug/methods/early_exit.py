"""The early head (KeepAugment, section 3.1): `--early-exit`, and saliency that asks for one."""

import argparse
import logging
from collections.abc import Iterator, Sequence

from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import nn

from keepaug.augment.saliency import EARLY, low_size
from keepaug.console.processes import is_first_process
from keepaug.methods.method import Flag, Method, Need, Refusal
from keepaug.methods.registry import active_methods
from keepaug.models.early_exit import EARLY_WEIGHT, EarlyExit
from keepaug.models.resolution import at_resolution
from keepaug.ranges import Range
from keepaug.training.early_exit_task import EarlyExitTask
from keepaug.training.images import image_shapes

_logger = logging.getLogger('train')


class EarlyExitMethod(Method):
    """Trains a linear classifier after the first stage beside the model."""

    name = 'early-exit'
    title = 'early exit: a classifier after the first stage'
    switch = Flag(
        '--early-exit',
        help='also train a linear classifier after the first stage; implied by --keep-saliency early',
    )
    settings = (
        Flag(
            '--early-exit-weight',
            parameter='weight',
            type=float,
            default=EARLY_WEIGHT,
            metavar='W',
            range=Range(above=0),
            help='weight of its loss',
        ),
        Flag(
            '--early-exit-stage',
            parameter='stage',
            type=str,
            metavar='STAGE',
            help='stage it follows, by name or number in feature_info; unset: the first that reduces by 4',
        ),
    )
    on_batches = False
    example = '--early-exit'

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.early_exit or args.keep_saliency in EARLY

    def follows(self, others: Sequence[Method], args: argparse.Namespace) -> bool:
        """It may: a model that cannot run on reduced images gets a head for its first layers."""
        return args.keep_saliency is None and any(other.uses_saliency(args) for other in others)

    def spelled(self, args: argparse.Namespace) -> str:
        return '--early-exit' if args.early_exit else f'--keep-saliency {args.keep_saliency}'

    def needed(self, args: argparse.Namespace) -> Need:
        return Need.IMAGES | Need.OPEN_MODEL | Need.BARE_MODEL if self.is_on(args) else Need(0)

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        if not self.is_on(args):
            return
        for other in active_methods(args):
            yield (
                bool(other.only_in_training),
                (
                    f'{other.spelled(args)} may mix after the early head of {self.spelled(args)}, which then does not '
                    'see what the label says: drop one of the two.'
                ),
            )

    def wrap_task(self, task: TrainingTask, args: argparse.Namespace) -> TrainingTask:
        """The task with the head.

        Where no saliency is named and the model cannot run on a reduced image, but its first layers can, the head is
        added for them: the price of a step falls from that of the full pass to that of the early one.

        Raises:
            ValueError: The model has no stages, or not the one asked for.
        """
        model = unwrap_model(task.get_trainable_module())
        if not self.is_on(args) and not self._spares_the_full_pass(args, model):
            return task
        try:
            task = EarlyExitTask(task, args.early_exit_weight, args.early_exit_stage)
        except ValueError as error:
            raise ValueError(f'--early-exit is not possible: {error}') from error
        early_exit = unwrap_model(task.get_trainable_module())
        if is_first_process():
            place, weight = early_exit.early_classifier().place, early_exit.weight
            _logger.info(f'An early head after {place} is trained along with the model; its loss has weight {weight}.')
        return task

    def _spares_the_full_pass(self, args: argparse.Namespace, model: nn.Module) -> bool:
        """Whether the model cannot run on reduced images, and its first layers can."""
        if any(method.only_in_training for method in active_methods(args)):
            return False  # may mix behind the head, which would not see what the label says
        for images in image_shapes(args, model):
            low = low_size(images.shape[-2:], args.keep_low_scale)
            if at_resolution(model, low, images) is not None:
                continue
            try:
                return at_resolution(EarlyExit(model).early_classifier(), low, images) is not None
            except ValueError:
                return False
        return False
