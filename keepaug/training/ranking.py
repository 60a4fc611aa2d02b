"""Which number ranks epochs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from timm.task import TrainingTask


@dataclass(frozen=True)
class Ranking:
    """How epochs are ranked.

    Attributes:
        metric: Name of the metric: `--eval-metric`, or the training loss where nothing is validated.
        validated: Whether validation reports it.
    """

    metric: str
    validated: bool = True

    @classmethod
    def from_args(cls, args) -> 'Ranking':
        return cls(args.eval_metric, True) if args.val_split else cls('loss', False)

    @property
    def decreasing(self) -> bool:
        """Whether lower is better."""
        return self.metric == 'loss'

    @property
    def column(self) -> str:
        """What `summary.csv` calls it."""
        return f'{"eval" if self.validated else "train"}_{self.metric}'

    def value(self, train_metrics: Mapping[str, float], eval_metrics: Mapping[str, float]) -> float:
        """The number that ranks an epoch; NaN, which ranks last, where its loss is not finite.

        Weights that are not numbers have an accuracy, too: that of the first class.
        """
        metrics = eval_metrics if self.validated else train_metrics
        value = metrics[self.metric]
        return value if math.isfinite(metrics.get('loss', value)) else math.nan

    def order(self, value: float) -> float:
        """A key that sorts values from the worst to the best; those that are not finite are the worst."""
        if not math.isfinite(value):
            return -math.inf
        return -value if self.decreasing else value


def check_eval_metric(args, task: TrainingTask) -> None:
    """Refuses a metric the task does not report, before any training.

    Raises:
        ValueError: The metric is unknown.
    """
    known = task.create_evaluator().metric_names
    if args.val_split and args.eval_metric not in known:
        raise ValueError(f'--eval-metric {args.eval_metric} is not reported: choose one of {", ".join(known)}.')
