"""One pass over the data."""
import copy
import importlib.util
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.data import RealLabelsImagenet
from timm.task.evaluator import ClassificationEvaluator, MultiLabelClassificationEvaluator, evaluation_sample_limit
from timm.utils import AverageMeter

from keepaug.console.interrupts import raise_lost_interrupt
from keepaug.console.progress import Progress
from keepaug.training.validation_pass import describe_metrics
from keepaug.training.loop import move
from keepaug.validation.processes import world_size

_logger = logging.getLogger('validate')


def check_averaging(args) -> None:
    """Switches `--metrics-avg` off, with a warning, where scikit-learn is missing."""
    if args.metrics_avg and importlib.util.find_spec('sklearn') is None:
        _logger.warning('--metrics-avg needs scikit-learn, which is not installed; it is left out.')
        args.metrics_avg = None


@torch.no_grad()  # as `warm_up`
def measure(
        model: torch.nn.Module,
        loader,
        device: torch.device,
        dtype: torch.dtype,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        *,
        prefetched: bool = True,
        channels_last: bool = False,
        valid_labels: list[int] | None = None,
        real_labels: RealLabelsImagenet | None = None,
        average: str | None = None,
        log_interval: int = 10,
        observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
        evaluator: ClassificationEvaluator | None = None,
        progress: Progress | None = None,
) -> OrderedDict[str, float]:
    """One pass over the data.

    Args:
        model: Model on its device.
        loader: Batches.
        device: Device.
        dtype: Type of images.
        autocast: Makes the context of a forward pass.
        prefetched: Whether batches are on the device already.
        channels_last: Memory layout of images.
        valid_labels: Columns of the logits to compare; targets must index them already.
        real_labels: Judge whose top-1 and top-5 replace the plain ones.
        average: 'micro', 'macro' or 'weighted' for precision, recall and F1; None for none.
        log_interval: Batches between log lines.
        observe: Is given the logits and targets of each batch.
        evaluator: What measures; unset: that of one label per image.
        progress: What follows the pass.

    Returns:
        What the evaluator reports, `loss`, `top1`, `top5`, and, with `average`, `<average>_precision`, `_recall`,
        `_f1_score`; all but the loss in percent.
    """
    model.eval()
    evaluator = evaluator or ClassificationEvaluator(device=device)
    # A distributed sampler repeats images so that all processes have as many; the repeated ones come last.
    left = evaluation_sample_limit(loader)
    of_batch = copy.deepcopy(evaluator)
    predicted, wanted = [], []
    batch_time, start = AverageMeter(), time.time()
    progress = progress or Progress()
    with progress.validating(len(loader)):
        for batch_idx, (input, target) in enumerate(loader):
            raise_lost_interrupt()
            if not prefetched:
                input, target = move(input, device, dtype), target.to(device)
            if channels_last and isinstance(input, torch.Tensor):
                input = input.contiguous(memory_format=torch.channels_last)
            with autocast():
                output = model(input)
                if isinstance(output, (tuple, list)):
                    output = output[0]
                if valid_labels is not None:
                    output = output[:, valid_labels]
            if left is not None:
                output, target = output[:left], target[:left]
                left -= len(target)
                if not len(target):
                    continue
            if real_labels is not None:
                real_labels.add_result(output)
            try:
                evaluator.update(output, target)
            except IndexError as error:
                raise ValueError(
                    f'The data has labels beyond the {output.shape[1]} classes that are compared: give --valid-labels '
                    'as many classes as the data has, which must count them in that order.') from error
            if observe is not None:
                observe(output, target)
            if average:
                predicted.append(output.argmax(1).cpu())
                wanted.append(target.cpu())
            progress.advance(len(target) * world_size())
            batch_time.update(time.time() - start, n=len(target))
            start = time.time()
            if batch_idx % log_interval == 0:
                _logger.info(
                    f'Test: [{batch_idx:>4d}/{len(loader)}]  '
                    f'Time: {batch_time.val:.3f}s ({batch_time.avg:.3f}s, {len(target) / batch_time.avg:>7.2f}/s)  '
                    + describe_metrics(of_batch, evaluator, output, target))
    metrics = evaluator.compute(distributed=world_size() > 1)
    if real_labels is not None:
        metrics.update(top1=real_labels.get_accuracy(k=1), top5=real_labels.get_accuracy(k=5))
    if average:
        metrics.update(_averaged_scores(torch.cat(wanted), torch.cat(predicted), average))
    return metrics


def _averaged_scores(target: torch.Tensor, predicted: torch.Tensor, average: str) -> dict[str, float]:
    """Precision, recall and F1 over classes, in percent (`--metrics-avg`)."""
    from sklearn.metrics import precision_recall_fscore_support
    scores = precision_recall_fscore_support(target.numpy(), predicted.numpy(), average=average, zero_division=0)
    names = ('precision', 'recall', 'f1_score')
    return {f'{average}_{name}': 100. * float(score) for name, score in zip(names, scores)}


def build_evaluator(args, device: torch.device) -> ClassificationEvaluator:
    """What measures the task: top-1 and top-5 of one label per image, mean average precision and F1 of several."""
    if getattr(args, 'task', None) == 'multilabel':  # stock's parser does not have it
        return MultiLabelClassificationEvaluator(device, threshold=args.multilabel_threshold)
    return ClassificationEvaluator(device)
