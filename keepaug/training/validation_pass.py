"""One pass of validation: that of an epoch in training, of `validate.py`, and of measurements beside a run."""

import copy
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.task import TrainingTask
from timm.task.evaluator import ClassificationEvaluator, evaluation_sample_limit
from timm.utils import AverageMeter, distribute_bn
from torch import Tensor

from keepaug.console.interrupts import raise_pending_signal
from keepaug.console.progress import Progress
from keepaug.training.forward import Forward
from keepaug.training.loop import LoopSettings


class LogLines:
    """The log lines of a validation in `train.py`: every so many batches, and at the last one.

    Args:
        interval: Batches between lines.
        suffix: Stands behind a line's first word: ' (EMA)' for averaged weights.
    """

    logger = logging.getLogger('train')

    def __init__(self, interval: int, suffix: str = ''):
        self.interval = interval
        self.suffix = suffix

    def is_due(self, batch: int, batches: int) -> bool:
        """Whether there is a line of a batch, the first of which has the number 0."""
        return batch % self.interval == 0 or batch == batches - 1

    def describe(self, batch: int, batches: int, seconds: AverageMeter, images: int) -> str:
        """A line as far as the metrics.

        Args:
            batch: Number of the batch.
            batches: Batches of the pass.
            seconds: Seconds per batch.
            images: Images of the batch.
        """
        return f'Test{self.suffix}: [{batch:>4d}/{batches - 1}]  Time: {seconds.val:.3f} ({seconds.avg:.3f})'


# Not in inference mode: what a model keeps of a pass, such as LeViT its attention's bias, could not stand in a gradient
# that is asked of it later.
@torch.no_grad()
def validate(
    model: torch.nn.Module,
    loader,
    evaluator: ClassificationEvaluator,
    forward: Forward,
    *,
    classes: Sequence[int] | None = None,
    tta: int = 0,
    observers: Sequence[Callable[[Tensor, Tensor], None]] = (),
    lines: LogLines | None = None,
    progress: Progress | None = None,
    title: str = 'validation',
    world_size: int = 1,
) -> OrderedDict[str, float]:
    """Metrics of a model over a loader.

    Args:
        model: Model in any wrapping; left in eval mode.
        loader: Evaluation batches. Images that a distributed sampler repeats, so that all processes have as many, pass
            through the model and do not count.
        evaluator: A fresh evaluator of the task.
        forward: How batches reach the model.
        classes: Columns of the logits to compare, which targets must index already; None for all.
        tta: Consecutive outputs to average, of images that stand for one; 0 or 1 for none.
        observers: Are given the logits and targets of each batch, as they count.
        lines: Log lines; None for none.
        progress: What follows the pass.
        title: What it calls the pass.
        world_size: Processes that share the images.

    Returns:
        Metrics by name: `loss`, and in percent `top1` and `top5` for tasks with one label per image.
    """
    model.eval()
    left = evaluation_sample_limit(loader)
    of_batch = copy.deepcopy(evaluator)  # for the log line's value of one batch beside the average
    seconds, start = AverageMeter(), time.time()
    progress = progress or Progress()
    with progress.validating(len(loader), title):
        for batch_idx, (input, target) in enumerate(loader):
            raise_pending_signal()
            output, target = forward(model, input), target.to(forward.device, non_blocking=True)
            if classes is not None:
                output = output[:, classes]
            if tta > 1:
                output = output.unfold(0, tta, tta).mean(dim=2)
                target = target[::tta]
            if left is not None:  # the repeated images come last
                output, target = output[:left], target[:left]
                left -= len(target)
                if not len(target):
                    continue
            evaluator.update(output, target)
            for observe in observers:
                observe(output, target)
            progress.advance(len(target) * world_size)
            if forward.device.type == 'cuda':
                torch.cuda.synchronize()
            seconds.update(time.time() - start)
            start = time.time()
            if lines is not None and lines.is_due(batch_idx, len(loader)):
                lines.logger.info(
                    f'{lines.describe(batch_idx, len(loader), seconds, len(target))}  '
                    + describe_metrics(of_batch, evaluator, output, target)
                )
    return evaluator.compute(distributed=world_size > 1)


def describe_metrics(
    of_batch: ClassificationEvaluator,
    evaluator: ClassificationEvaluator,
    output: Tensor,
    target: Tensor,
) -> str:
    """Metrics of a log line, each as `name: value of the batch (average so far)`.

    Args:
        of_batch: An evaluator to measure the batch with; what it held is dropped.
        evaluator: The evaluator of the whole pass.
        output: The batch's logits.
        target: The batch's targets.
    """
    of_batch.reset()
    of_batch.update(output, target)
    names = {'loss': 'Loss', 'top1': 'Acc@1', 'top5': 'Acc@5'}
    now = of_batch.summary()
    return '  '.join(
        f'{names.get(name, name)}: {now[name]:>7.3f} ({average:>7.3f})' for name, average in evaluator.summary().items()
    )


def evaluate(task: TrainingTask, loader, settings: LoopSettings) -> OrderedDict[str, float]:
    """Validates the plain model and, if there is one on this device, its average.

    Returns:
        The average's metrics where it was validated, else the plain model's: they rank epochs, as in stock.
    """
    metrics = _validate(task, loader, settings, ema=False)
    if settings.validate_ema:
        share_statistics(task, settings, ema=True)
        metrics = _validate(task, loader, settings, ema=True)
    return metrics


def share_statistics(task: TrainingTask, settings: LoopSettings, ema: bool = False) -> None:
    """Gives all processes the same statistics of batch norm (`--dist-bn`)."""
    if settings.dist_bn:
        distribute_bn(task.get_trainable_module(ema=ema), settings.world_size, settings.dist_bn == 'reduce')


def _validate(task: TrainingTask, loader, settings: LoopSettings, ema: bool) -> OrderedDict[str, float]:
    suffix = ' (EMA)' if ema else ''
    model: Any = task.get_eval_model(ema=ema)
    return validate(
        model,
        loader,
        task.create_evaluator(),
        settings.forward,
        tta=settings.tta,
        lines=LogLines(settings.log_interval, suffix) if settings.rank == 0 else None,
        progress=settings.progress,
        title=f'validation{suffix}',
        world_size=settings.world_size,
    )
