"""From options to the augmentations a batch passes through."""
import logging
from collections.abc import Iterator

import torch
from timm.data import resolve_input_data_config
from torch import nn

from keepaug.augment import BatchAugment, Compose, create_augment

_logger = logging.getLogger('train')


def build_augment(args, model: nn.Module) -> Compose | None:
    """The batch augmentations that are switched on, in the order a batch meets them; None if there are none.

    Args:
        args: Options returned by `keepaug.prepare`.
        model: The bare model in training.

    Raises:
        ValueError: A value does not fit.
    """
    builders = (_keep_cut, _cutout)
    augments = [augment for builder in builders if (augment := builder(args, model)) is not None]
    if not augments:
        return None
    for images in _image_shapes(args, model):
        for augment in augments:
            augment.check_images(images)
    return Compose(augments)


def _image_shapes(args, model: nn.Module) -> Iterator[torch.Tensor]:
    """An empty image of every size the run will train on."""
    channels, *size = resolve_input_data_config(model, args=vars(args))['input_size']
    like = next(model.parameters())
    for shape in [(edge, edge) for edge in getattr(args, 'train_img_sizes', None) or ()] or [size]:
        yield like.new_zeros(1, channels, *shape)


def _keep_cut(args, model: nn.Module) -> BatchAugment | None:
    mode = getattr(args, 'keep_cut', None)
    if not mode:
        return None
    stood_down = getattr(args, 'stood_down', None)
    reprob = getattr(stood_down, 'reprob', 0.)
    prob = reprob or (1. if args.keep_prob is None else args.keep_prob)
    erase = dict(fill=args.remode, max_count=args.recount) if mode == 'erase' else {}
    return create_augment(
        'keep-cut',
        model=model,
        num_classes=args.num_classes,
        mode=mode,
        size=args.keep_size,
        tau=args.keep_tau,
        prob=prob,
        saliency=args.keep_saliency,
        low_scale=args.keep_low_scale,
        **erase,
    )


def _cutout(args, model: nn.Module) -> BatchAugment | None:
    size = getattr(args, 'cutout', None)
    return None if size is None else create_augment('cutout', size=size or None)
