"""One pass of validation."""
import copy
import logging
import time
from collections import OrderedDict

import torch
from timm.task import TrainingTask
from timm.task.evaluator import ClassificationEvaluator, evaluation_sample_limit
from timm.utils import AverageMeter, distribute_bn

from keepaug.console.interrupts import raise_lost_interrupt
from keepaug.training.loop import LoopSettings

_logger = logging.getLogger('train')


@torch.inference_mode()
def validate(
        model: torch.nn.Module,
        loader,
        evaluator: ClassificationEvaluator,
        settings: LoopSettings,
        suffix: str = '',
) -> OrderedDict[str, float]:
    """Metrics of a model over a loader.

    Args:
        model: Model in any wrapping; left in eval mode.
        loader: Evaluation batches.
        evaluator: A fresh evaluator of the task; knows the number of padded samples to leave out.
        settings: Device and precision.
        suffix: Appended to the log lines' first word, ' (EMA)' for averaged weights.

    Returns:
        Metrics by name: `loss`, `top1`, `top5` in percent for single-label tasks.
    """
    model.eval()
    of_batch = copy.deepcopy(evaluator)  # for the log line's value of one batch beside the average
    batch_time = AverageMeter()
    start = time.time()
    last_idx = len(loader) - 1
    with settings.progress.validating(len(loader), f'validation{suffix}'):
        for batch_idx, (input, target) in enumerate(loader):
            raise_lost_interrupt()
            input, target = settings.to_device(input, target)
            input = settings.in_layout(input)
            with settings.precision.autocast():
                output = model(input)
                if isinstance(output, (tuple, list)):
                    output = output[0]
            if settings.tta > 1:
                output = output.unfold(0, settings.tta, settings.tta).mean(dim=2)
                target = target[0:target.size(0):settings.tta]
            evaluator.update(output, target)
            settings.progress.advance(len(target) * settings.world_size)
            if settings.device.type == 'cuda':
                torch.cuda.synchronize()
            batch_time.update(time.time() - start)
            start = time.time()
            if settings.rank == 0 and (batch_idx == last_idx or batch_idx % settings.log_interval == 0):
                _logger.info(
                    f'Test{suffix}: [{batch_idx:>4d}/{last_idx}]  Time: {batch_time.val:.3f} ({batch_time.avg:.3f})  '
                    + describe_metrics(of_batch, evaluator, output, target))
    return evaluator.compute(distributed=settings.world_size > 1)


def describe_metrics(
        of_batch: ClassificationEvaluator,
        evaluator: ClassificationEvaluator,
        output: torch.Tensor,
        target: torch.Tensor,
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
        f'{names.get(name, name)}: {now[name]:>7.3f} ({average:>7.3f})'
        for name, average in evaluator.summary().items())


def evaluate(args, task: TrainingTask, loader, settings: LoopSettings) -> OrderedDict[str, float]:
    """Validates the plain model and, if there is one on this device, its average.

    Returns:
        The average's metrics where it was validated, else the plain model's: they rank epochs, as in stock.
    """
    metrics = _validate(task, loader, settings, ema=False)
    if args.model_ema and not args.model_ema_force_cpu:
        if args.distributed and args.dist_bn in ('broadcast', 'reduce'):
            distribute_bn(task.get_trainable_module(ema=True), args.world_size, args.dist_bn == 'reduce')
        metrics = _validate(task, loader, settings, ema=True)
    return metrics


def _validate(task: TrainingTask, loader, settings: LoopSettings, ema: bool) -> OrderedDict[str, float]:
    evaluator = task.create_evaluator(max_samples=evaluation_sample_limit(loader))
    return validate(task.get_eval_model(ema=ema), loader, evaluator, settings, suffix=' (EMA)' if ema else '')
