"""What a validation measures, and how its log tells of it."""

import importlib.util
import logging
from typing import Literal, Protocol

import torch
from timm.data import RealLabelsImagenet
from timm.task.evaluator import ClassificationEvaluator, MultiLabelClassificationEvaluator
from timm.utils import AverageMeter
from torch import Tensor

from keepaug.training.validation_pass import LogLines

_logger = logging.getLogger('validate')


class ValidationLines(LogLines):
    """The log lines of `validate.py`: every so many batches, with the images per second."""

    logger = _logger

    def is_due(self, batch: int, batches: int) -> bool:
        return batch % self.interval == 0

    def describe(self, batch: int, batches: int, seconds: AverageMeter, images: int) -> str:
        return (
            f'Test: [{batch:>4d}/{batches}]  '
            f'Time: {seconds.val:.3f}s ({seconds.avg:.3f}s, {images / seconds.avg:>7.2f}/s)'
        )


class OneLabelEvaluator(ClassificationEvaluator):
    """Top-1 and top-5 of one label per image."""

    def update(self, output: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Raises:
            ValueError: A label is none of the classes that are compared.
        """
        try:
            super().update(output, target)
        except IndexError as error:
            raise ValueError(
                f'The data has labels beyond the {output.shape[1]} classes that are compared: give --valid-labels as '
                'many classes as the data has, in the same order.'
            ) from error


def build_evaluator(args, device: torch.device) -> ClassificationEvaluator:
    """What measures the task: top-1 and top-5 of one label per image, mean average precision and F1 of several."""
    if args.task == 'multilabel':
        return MultiLabelClassificationEvaluator(device, threshold=args.multilabel_threshold)
    return OneLabelEvaluator(device)


class Score(Protocol):
    """Scores beside the evaluator's; those of its names take their place."""

    def update(self, output: Tensor, target: Tensor) -> None:
        """Adds a batch: logits (B, K) and class indices (B,)."""

    def compute(self) -> dict[str, float]:
        """The scores by name, in percent."""


class RealLabelScore:
    """Top-1 and top-5 by ImageNet's reassessed labels (`--real-labels`)."""

    def __init__(self, labels: RealLabelsImagenet):
        self.labels = labels

    def update(self, output: Tensor, target: Tensor) -> None:
        self.labels.add_result(output)

    def compute(self) -> dict[str, float]:
        return {f'top{k}': self.labels.get_accuracy(k=k) for k in (1, 5)}


Average = Literal['micro', 'macro', 'weighted']


class AveragedScore:
    """Precision, recall and F1 averaged over classes, 0 where a class has none (`--metrics-avg`).

    Args:
        average: 'micro', 'macro' (over the classes that occur as label or answer) or 'weighted' by the labels.
        num_classes: Classes the model chooses from.
        device: Device of the outputs.
    """

    def __init__(self, average: Average, num_classes: int, device: torch.device = torch.device('cpu')):
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassF1Score, MulticlassPrecision, MulticlassRecall

        self.names = [f'{average}_{score}' for score in ('precision', 'recall', 'f1_score')]
        self.metrics = MetricCollection(
            [
                kind(num_classes=num_classes, average=average, validate_args=False)
                for kind in (MulticlassPrecision, MulticlassRecall, MulticlassF1Score)
            ]
        ).to(device)
        if device.type != 'mps':  # which has no float64
            self.metrics.set_dtype(torch.float64)

    def update(self, output: Tensor, target: Tensor) -> None:
        self.metrics.update(output.argmax(1), target)

    def compute(self) -> dict[str, float]:
        return {name: 100 * score.item() for name, score in zip(self.names, self.metrics.compute().values())}


def build_scores(args, real_labels: RealLabelsImagenet | None, num_classes: int, device: torch.device) -> list[Score]:
    """The scores that `--real-labels` and `--metrics-avg` ask for."""
    scores: list[Score] = []
    if real_labels is not None:
        scores.append(RealLabelScore(real_labels))
    if args.metrics_avg:
        scores.append(AveragedScore(args.metrics_avg, num_classes, device))
    return scores


def check_averaging(args) -> None:
    """Switches `--metrics-avg` off, with a warning, where torchmetrics is missing."""
    if args.metrics_avg and importlib.util.find_spec('torchmetrics') is None:
        _logger.warning('--metrics-avg needs torchmetrics, which is not installed, and is left out.')
        args.metrics_avg = None
