"""Which number ranks epochs, and where numbers go beside the log."""
import logging
import os
from collections import OrderedDict

from timm.task import TrainingTask
from timm.task.evaluator import evaluation_sample_limit
from timm.utils import distribute_bn

from keepaug.engine.loop import LoopSettings, validate

_logger = logging.getLogger('train')


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


def open_wandb(args, output_dir: str) -> None:
    """Starts a Weights & Biases run if `--log-wandb` asks for it and the package is there; else says so.

    Clears `args.log_wandb` where it is not.

    Raises:
        ValueError: `--wandb-resume-id` without `--resume`.
    """
    if not args.log_wandb:
        return
    try:
        import wandb
    except ImportError:
        _logger.warning('--log-wandb is set but wandb is not installed; pip install wandb to log there.')
        args.log_wandb = False
        return
    if args.wandb_resume_id and not args.resume:
        raise ValueError('--wandb-resume-id continues a run, so --resume must name its checkpoint.')
    wandb.init(
        project=args.wandb_project,
        name=os.path.basename(output_dir),
        config=vars(args),
        tags=args.wandb_tags,
        resume='must' if args.wandb_resume_id else None,
        id=args.wandb_resume_id or None,
    )
