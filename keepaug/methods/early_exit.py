"""The early head: which runs have one."""
import logging
import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model

from keepaug.augment.saliency import PASSES, low_size
from keepaug.models.early_exit import EarlyExit
from keepaug.models.resolution import at_resolution
from keepaug.training.early_exit_task import EarlyExitTask
from keepaug.training.images import image_shapes

_logger = logging.getLogger('train')


def add_early_exit(args, task: TrainingTask) -> TrainingTask:
    """The task with an early head where `args` ask for one, or for a saliency that needs one; else the task itself.

    Where no saliency is named and the model cannot run on a reduced image, but its first layers can, the head is added
    for them: the price of a step falls from that of the full pass to that of the early one.

    Raises:
        ValueError: The model has no stages, or not the one asked for.
    """
    model = unwrap_model(task.get_trainable_module())
    if not getattr(args, 'early_exit', False) and not _saliency_needs_head(args, model):
        return task
    try:
        task = EarlyExitTask(task, args.early_exit_weight, args.early_exit_stage)
    except ValueError as error:
        raise ValueError(f'--early-exit is not possible: {error}') from error
    early_exit = unwrap_model(task.get_trainable_module())
    if getattr(args, 'rank', 0) == 0:
        place = early_exit.early_classifier().place
        _logger.info(f'An early head after {place} is trained beside the model, its loss weighted {early_exit.weight}.')
    return task


def _saliency_needs_head(args, model: torch.nn.Module) -> bool:
    if args.keep_saliency is not None:
        return PASSES[args.keep_saliency].early
    if not (args.keep_cut or getattr(args, 'keep_paste', False)) or args.keep_tau is None:
        return False
    if args.feature_cutmix or args.manifold_mixup:  # may mix behind the head, which would not see what the label says
        return False
    for images in image_shapes(args, model):
        low = low_size(tuple(images.shape[-2:]), args.keep_low_scale)
        if at_resolution(model, low, images) is not None:
            continue
        try:
            return at_resolution(EarlyExit(model).early_classifier(), low, images) is not None
        except ValueError:
            return False
    return False
