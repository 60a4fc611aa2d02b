"""The training task: model, loss, and the augmentations that batches pass through on the way in."""
import inspect
import logging

import torch
from timm.data import Mixup
from timm.loss import (
    AsymmetricLossMultiLabel,
    BinaryCrossEntropy,
    DistributionBalancedLoss,
    LabelSmoothingCrossEntropy,
    PolyBinaryCrossEntropy,
    PolyCrossEntropy,
    SoftTargetCrossEntropy,
)
from timm.task import (
    ClassificationTask,
    FeatureDistillationTask,
    LogitDistillationTask,
    MultiLabelClassificationTask,
    TokenDistillationTask,
    TrainingTask,
)
from timm.utils import unwrap_model

from keepaug.augment import Compose
from keepaug.engine.augment import build_augment
from keepaug.engine.checkpoint import check_checkpoint
from keepaug.engine.data import drop_prefetched
from keepaug.engine.early_exit import add_early_exit
from keepaug.engine.loss import loss_kwargs
from keepaug.engine.sentence import first_line
from keepaug.engine.wrapped_task import WrappedTask, innermost_task

_logger = logging.getLogger('train')


def build_task(args, model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> TrainingTask:
    """The task of the run: classification, with one label or several, or distillation from `--kd-model-name`.

    Raises:
        ValueError: The teacher cannot be built, or loss flags contradict each other.
    """
    common = dict(criterion_kwargs=loss_kwargs(args), device=device, dtype=dtype, verbose=args.rank == 0)
    if args.task == 'multilabel':
        return MultiLabelClassificationTask(model, threshold=args.multilabel_threshold, **common)
    if not args.kd_model_name:
        return ClassificationTask(model, **common)
    if args.kd_pretrained_path:
        check_checkpoint(args.kd_pretrained_path, '--kd-pretrained-path')
    distill = dict(
        student_model=model,
        teacher_model=args.kd_model_name,
        teacher_pretrained_path=args.kd_pretrained_path,
        distill_loss_weight=args.distill_loss_weight,
        task_loss_weight=args.task_loss_weight,
        **common,
    )
    kinds = {
        'logit': (LogitDistillationTask, dict(loss_type=args.kd_loss_type, temperature=args.kd_temperature)),
        'feature': (FeatureDistillationTask, dict(
            student_feature_dim=args.kd_student_feature_dim, teacher_feature_dim=args.kd_teacher_feature_dim)),
        'token': (TokenDistillationTask, dict(
            distill_type=args.kd_token_distill_type, temperature=args.kd_temperature)),
    }
    task_class, settings = kinds[args.kd_distill_type]
    try:
        return task_class(**settings, **distill)
    except OSError as error:  # what a failing download is, too
        raise ValueError(
            f'The weights of --kd-model-name {args.kd_model_name} cannot be had ({first_line(error)}): '
            'give a file of them with --kd-pretrained-path.') from error
    except (RuntimeError, AssertionError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f'--kd-model-name {args.kd_model_name} cannot teach --model {args.model} by --kd-distill-type '
            f'{args.kd_distill_type}: {first_line(error)}.') from error


def stop_mixing(loader, mixup_fn: Mixup | None, task: TrainingTask) -> None:
    """Switches label mixing off wherever it happens: in the collate function, on the device, or in the task."""
    if mixup_fn is not None:
        mixup_fn.mixup_enabled = False
    if getattr(loader, 'mixup_enabled', False):
        loader.mixup_enabled = False
        drop_prefetched(loader)
    if isinstance(task, AugmentedTask):
        task.stop_mixing()


def weaken(task: TrainingTask, strength: float) -> None:
    """Sets how strongly a task's own augmentations are applied: a share of their full strength, in [0, 1]."""
    if isinstance(task, AugmentedTask):
        for augment in task.augment.augments:
            augment.strength = strength


def augment_batch(
        task: TrainingTask, input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as a task would augment it on the device; unchanged where it does not."""
    return task.augment(input, target) if isinstance(task, AugmentedTask) else (input, target)


def tell_progress(task: TrainingTask, epoch: int, epochs: int) -> None:
    """Tells what grows with the training that an epoch begins: 0 in the first of all epochs, 1 in the last."""
    if isinstance(task, AugmentedTask):
        task.set_progress(epoch / max(1, epochs - 1))


# Criteria that take soft targets as they are; the last three are those of several labels per image.
SOFT_CRITERIA = (
    SoftTargetCrossEntropy, BinaryCrossEntropy, PolyCrossEntropy,
    AsymmetricLossMultiLabel, PolyBinaryCrossEntropy, DistributionBalancedLoss,
)


def soft_target_form(criterion):
    """The criterion that takes soft targets in place of one that takes class indices.

    Smoothing is left to the mixer, which makes the targets.

    Raises:
        ValueError: The criterion has no soft-target form.
    """
    kind = type(criterion)
    if kind in SOFT_CRITERIA:
        return criterion
    if kind is LabelSmoothingCrossEntropy:
        return SoftTargetCrossEntropy()
    if kind is torch.nn.CrossEntropyLoss:
        return torch.nn.CrossEntropyLoss(weight=criterion.weight, reduction=criterion.reduction)
    raise ValueError(
        f'{kind.__name__} takes no mixed labels: choose --loss ce, bce or poly, or mix none.')


def wrap_task(task: TrainingTask, args) -> TrainingTask:
    """Gives a task the early head and its training batches the augmentations that `args` ask for.

    Call it right after the task is made, before EMA, compile and DDP: the augmentations look at the bare model.

    Args:
        task: Any task of `timm.task`.
        args: Options returned by `keepaug.prepare`.

    Returns:
        `task` itself where nothing of ours is on, so that a run without our flags is stock's.

    Raises:
        ValueError: An augmentation does not fit the model.
    """
    task = add_early_exit(args, task)
    # The student alone where the task trains more, as feature distillation does.
    augment = build_augment(args, unwrap_model(task.get_eval_model()))
    if augment is None:
        return task
    if getattr(args, 'rank', 0) == 0:
        _logger.info('Batches are augmented by ' + ', then '.join(map(repr, augment.augments)))
    if any(each.mixes_labels for each in augment.augments):
        soft_target_form(innermost_task(task).criterion)  # says now what the first batch would
    return AugmentedTask(task, augment)


def compile_task(args, task: TrainingTask) -> None:
    """Compiles what trains and what is validated, and the average if there is one (`--torchcompile`).

    Raises:
        ValueError: The backend is unknown.
    """
    known = torch._dynamo.list_backends(None)
    if args.torchcompile not in known:
        raise ValueError(f'--torchcompile {args.torchcompile} is no backend; choose one of {", ".join(known)}.')
    task.compile(backend=args.torchcompile, mode=args.torchcompile_mode)
    if task.has_ema():
        task.compile_ema(backend=args.torchcompile, mode=args.torchcompile_mode)


def distribute_task(args, task: TrainingTask, device: torch.device) -> None:
    """Wraps what trains in DDP; on the CPU, where stock fails, without device ids."""
    # torch 2.15 renames the argument and warns of the old name.
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel.__init__).parameters
    sync_buffers = 'forward_sync_buffers' if 'forward_sync_buffers' in known else 'broadcast_buffers'
    settings = {sync_buffers: not args.no_ddp_bb}
    if args.exact_resume and device.type == 'cpu':
        # After the first step of a process DDP regroups gradients, and three processes and more then sum them in
        # another order; a resumed run would have a first step in the middle. Not where it looks for unused parameters.
        settings['find_unused_parameters'] = True
    task.prepare_distributed(device_ids=None if device.type == 'cpu' else [device], **settings)


class AugmentedTask(WrappedTask):
    """A task whose training batches are augmented on device before the inner task sees them.

    Augmenting happens outside DDP and compile, in training mode only. Where labels come out mixed, the soft-target form
    of the inner criterion is applied. Everything else is the inner task's.

    Attributes:
        augment: Callable `(x, target) -> (x, target)`; see `keepaug.augment`.
        watched: Whether the last training batch is kept.
        received: That batch as it came in, images and targets.
    """

    def __init__(self, task: TrainingTask, augment: Compose):
        super().__init__(task)
        self.augment = augment
        self.watched = False
        self.received: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def rows_per_sample(self) -> int:
        """Rows of an incoming batch that are one sample; 2 where the augmentations take pairs."""
        return self.augment.rows_per_sample

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.training:
            return self.task(input, target)
        if self.watched:
            self.received = input, target
        input, mixed = self.augment(input, target)
        if mixed.ndim == target.ndim:
            return self.task(input, mixed)
        owner = innermost_task(self)
        criterion = owner.criterion
        owner.criterion = soft_target_form(criterion)
        try:
            return self.task(input, mixed)
        finally:
            owner.criterion = criterion

    def set_progress(self, progress: float) -> None:
        """Tells the augmentations which share of the training, 0 to 1, is done."""
        self.augment.set_progress(progress)

    def stop_mixing(self) -> None:
        """Switches off what mixes labels."""
        for augment in self.augment.augments:
            augment.enabled = augment.enabled and not augment.mixes_labels
