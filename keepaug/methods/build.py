"""From options to what a method adds to data set and task."""
import logging
from typing import Any

from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from keepaug.augment import BatchAugment, Compose, Cutout, JointOcclusion, KeepPaste, create_augment
from keepaug.augment.label_mixing import PartnerMixer
from keepaug.data.crops import exchange_crop
from keepaug.data.pairs import pair_up
from keepaug.data.wrapped import ExchangedStreamTransform, ExchangedTransform
from keepaug.methods.early_exit import add_early_exit
from keepaug.methods.label_mixing import build_label_mixer, stock_mixing
from keepaug.models.early_exit import EarlyExit
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.images import image_shapes

_logger = logging.getLogger('train')


def wrap_dataset(dataset: Dataset, args) -> Dataset:
    """Gives a training dataset the transforms of ours that `args` ask for.

    Args:
        dataset: Dataset, map-style or iterable, before it goes to `timm.data.create_loader`.
        args: Options returned by `keepaug.prepare`.

    Returns:
        `dataset` itself where nothing of ours applies to it.
    """
    exchanges = []
    if getattr(getattr(args, 'stood_down', None), 'train_crop_mode', None) == 'pad4':
        exchanges.append(exchange_crop)
    if getattr(args, 'keep_paste', False):
        exchanges.append(pair_up)
    if not exchanges:
        return dataset
    wrapper = ExchangedStreamTransform if isinstance(dataset, IterableDataset) else ExchangedTransform
    return wrapper(dataset, exchanges)


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
    return AugmentedTask(task, augment)


def build_augment(args, model: nn.Module) -> Compose | None:
    """The batch augmentations that are switched on, in the order a batch meets them; None if there are none.

    Args:
        args: Options returned by `keepaug.prepare`.
        model: The bare model in training, or an `EarlyExit` around it.

    Raises:
        ValueError: A value does not fit.
    """
    builders = (_keep_paste, _keep_cut, _cutout, build_label_mixer, _joint_occlusion)
    augments = [augment for builder in builders if (augment := builder(args, model)) is not None]
    if not augments:
        return None
    for images in image_shapes(args, _bare(model)):
        for augment in augments:
            try:
                augment.check_images(images)
            except ValueError as error:
                raise ValueError(_named_by_flag(str(error), augment, args)) from error
    return Compose(augments)


def _named_by_flag(message: str, augment: BatchAugment, args) -> str:
    """A message that begins with a hyper-parameter's name, which is its flag's without the prefix, with the flag."""
    if isinstance(augment, PartnerMixer):
        return message  # names the flag itself
    if isinstance(augment, Cutout):
        return message.replace('size', '--cutout', 1)
    own = message.startswith('size ') and isinstance(augment, KeepPaste) and args.keep_paste_size is not None
    prefix = 'occlusion' if isinstance(augment, JointOcclusion) else 'keep-paste' if own else 'keep'
    return f'--{prefix}-{message}'


def _bare(model: nn.Module) -> nn.Module:
    return model.backbone if isinstance(model, EarlyExit) else model


def _keep_paste(args, model: nn.Module) -> BatchAugment | None:
    if not getattr(args, 'keep_paste', False):
        return None
    return create_augment(
        'keep-paste',
        model=model,
        size=args.keep_size if args.keep_paste_size is None else args.keep_paste_size,
        tau=args.keep_tau,
        prob=1. if args.keep_prob is None else args.keep_prob,
        saliency=args.keep_saliency,
        low_scale=args.keep_low_scale,
        # Keep-cut erases in a place of its own, after the paste.
        reprob=0. if args.keep_cut == 'erase' else args.stood_down.reprob,
        remode=_remode(args),
        recount=getattr(args, 'recount', 1),
    )


def _keep_cut(args, model: nn.Module) -> BatchAugment | None:
    if not getattr(args, 'keep_cut', None):
        return None
    settings = KEEP_CUT_SETTINGS[args.keep_cut](args)
    if args.keep_prob is not None:
        settings['prob'] = args.keep_prob
    return create_augment(
        'keep-cut',
        model=model,
        num_classes=args.num_classes,
        mode=args.keep_cut,
        tau=args.keep_tau,
        saliency=args.keep_saliency,
        low_scale=args.keep_low_scale,
        **settings,
    )


def _cutout_settings(args) -> dict[str, Any]:
    return dict(size=args.keep_size)


def _erase_settings(args) -> dict[str, Any]:
    """Stock's random erasing, which stood down for ours."""
    return dict(fill=_remode(args), max_count=getattr(args, 'recount', 1), prob=args.stood_down.reprob or 1.)


def _remode(args) -> str:
    """What erasing fills in; stock takes the empty name for const. Another person's parser may lack the flag."""
    return (getattr(args, 'remode', 'pixel') or 'const').lower()


def _cutmix_settings(args) -> dict[str, Any]:
    return stock_mixing(args, cutmix_alpha=args.stood_down.cutmix or 1.)


KEEP_CUT_SETTINGS = {'cutout': _cutout_settings, 'erase': _erase_settings, 'cutmix': _cutmix_settings}


def _cutout(args, model: nn.Module) -> BatchAugment | None:
    size = getattr(args, 'cutout', None)
    return None if size is None else create_augment('cutout', size=size or None)


def _joint_occlusion(args, model: nn.Module) -> BatchAugment | None:
    if not getattr(args, 'joint_occlusion', None):
        return None
    try:
        return create_augment(
            'joint-occlusion',
            model=_bare(model),
            mode=args.joint_occlusion,
            grid=args.occlusion_grid,
            keep_patch=args.occlusion_keep_patch,
            keep_image=args.occlusion_keep_image,
            holes=args.occlusion_holes,
            size=args.occlusion_size,
            layer=args.occlusion_layer,
            jitter=args.occlusion_jitter,
            only=args.occlusion_only,
        )
    except ValueError as error:  # a model whose stem is unknown; all else is checked with the flags
        raise ValueError(f'--occlusion-{error}') from error
