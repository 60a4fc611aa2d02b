"""Which number ranks epochs."""
from timm.task import TrainingTask


def tracked_metric(args) -> str:
    """The metric epochs are ranked by: `--eval-metric`, or the training loss where nothing is validated."""
    return args.eval_metric if args.val_split else 'loss'


def is_decreasing(args) -> bool:
    """Whether lower is better."""
    return tracked_metric(args) == 'loss'


def check_eval_metric(args, task: TrainingTask) -> None:
    """Refuses a metric the task does not report, before any training.

    Raises:
        ValueError: The metric is unknown.
    """
    known = task.create_evaluator().metric_names
    if args.val_split and args.eval_metric not in known:
        raise ValueError(f'--eval-metric {args.eval_metric} is not reported; choose one of {", ".join(known)}.')
