"""Data sets to batches on the device."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from timm.data import auto_augment, create_loader
from timm.data.loader import MultiEpochsDataLoader
from torch.utils.data import Dataset

from keepaug.console.errors import first_line
from keepaug.data.patches import create_patch_loader, eval_patches, train_patches
from keepaug.data.seeding import SeededLoader, plain_loader
from keepaug.data.transform import change_scheduled, find_changes, whole_image
from keepaug.data.unlabelled import find_groups
from keepaug.data.views import collate_splits
from keepaug.data.workers import report_failures


def build_train_loader(
    args, dataset: Dataset, data_config: dict, device: torch.device, dtype: torch.dtype, collate_fn: Callable | None
):
    """Training batches, as the loader flags describe them.

    Raises:
        ValueError: The flags do not fit each other, or the data gives less than one batch.
    """
    changes = find_changes(dataset)
    if (args.aug_splits or changes.copies > 1) and not args.prefetcher:
        collate_fn = collate_splits
    if changes.plain:
        changes.whole = whole_image(data_config)
    if args.aa:
        mend_posterize()
    interpolation = args.train_interpolation
    if args.no_aug or not interpolation:
        interpolation = data_config['interpolation']
    create: Callable = create_patch_loader if args.naflex_loader else create_loader
    if args.naflex_loader:
        settings = dict(mixup_fn=collate_fn, **train_patches(args, data_config))
    else:
        settings = dict(
            input_size=data_config['input_size'],
            collate_fn=collate_fn,
            use_multi_epochs_loader=args.use_multi_epochs_loader,
            **_scheduled_sizes(args),
        )
    try:
        loader = create(
            dataset,
            batch_size=args.batch_size,
            is_training=True,
            no_aug=args.no_aug,
            re_prob=args.reprob,
            re_mode=args.remode,
            re_count=args.recount,
            re_split=args.resplit,
            train_crop_mode=args.train_crop_mode,
            scale=args.scale,
            ratio=args.ratio,
            hflip=args.hflip,
            vflip=args.vflip,
            color_jitter=args.color_jitter,
            color_jitter_prob=args.color_jitter_prob,
            grayscale_prob=args.grayscale_prob,
            gaussian_blur_prob=args.gaussian_blur_prob,
            auto_augment=args.aa,
            num_aug_repeats=args.aug_repeats,
            num_aug_splits=args.aug_splits,
            interpolation=interpolation,
            worker_seeding=args.worker_seeding,
            **settings,
            **_loader_settings(args, data_config, device, dtype),
        )
    except (AssertionError, TypeError, NotImplementedError, KeyError, IndexError) as error:
        raise ValueError(f'The training loader cannot be built: {first_line(error)}.') from error
    change_scheduled(loader.dataset)
    if len(loader) == 0:
        if (groups := find_groups(dataset)) is not None:
            raise ValueError(groups.describe_shortage(args.batch_size))
        raise ValueError(
            f'The training set has fewer images than one batch: lower --batch-size {args.batch_size} or add images.'
        )
    return report_failures(loader)


def mend_posterize() -> None:
    """Lets timm's policies posterize to 0 bits, which Pillow 13 refuses and earlier releases answer with black."""
    for name, operation in auto_augment.NAME_TO_OP.items():
        if operation is auto_augment.posterize:
            auto_augment.NAME_TO_OP[name] = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs) -> Image.Image:
    """Known by its name, so that spawned workers, which get the policy pickled, can have it."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **kwargs)


def build_eval_loader(args, dataset: Dataset, data_config: dict, device: torch.device, dtype: torch.dtype):
    """Validation batches: one resize and centre crop, no augmentation.

    The crop mode of the model's configuration is not passed on: stock's in-training validation always crops the
    centre, and numbers stay comparable with it.
    """
    settings = _loader_settings(args, data_config, device, dtype)
    if args.distributed and ('tfds' in args.dataset or 'wds' in args.dataset):
        settings['num_workers'] = min(2, args.workers)  # many workers pad each other's last batches
    create: Callable = create_patch_loader if args.naflex_loader else create_loader
    shape = eval_patches(args, data_config) if args.naflex_loader else dict(input_size=data_config['input_size'])
    return report_failures(
        create(
            dataset,
            batch_size=args.validation_batch_size or args.batch_size,
            is_training=False,
            interpolation=data_config['interpolation'],
            crop_pct=data_config['crop_pct'],
            **shape,
            **settings,
        )
    )


def _loader_settings(args, data_config: dict, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return dict(
        mean=data_config['mean'],
        std=data_config['std'],
        num_workers=args.workers,
        distributed=args.distributed,
        pin_memory=args.pin_mem,
        img_dtype=dtype,
        device=device,
        use_prefetcher=args.prefetcher,
    )


def _scheduled_sizes(args) -> dict[str, Any]:
    """Settings of `--train-img-sizes` and its companions; none where sizes are not scheduled."""
    if not args.train_img_sizes:
        return {}
    return dict(
        input_size_choices=args.train_img_sizes,
        batch_size_choices=args.train_batch_sizes,
        batch_choice_weights=args.train_size_probs,
        batch_choice_seed=args.seed,
        batch_choice_schedule=args.train_size_schedule,
        batch_schedule_epochs=args.epochs,
        batch_schedule_spread=args.train_size_schedule_spread,
        batch_schedule_random_mix=args.train_size_random_mix,
        num_batches=args.train_batches_per_epoch,
    )


def average_batch_size(loader, batch_size: int) -> float:
    """Images per batch, averaged over the schedule where `--train-img-sizes` lets it vary."""
    return getattr(loader.batch_sampler, 'average_batch_size', batch_size)


def set_epoch(loader, epoch: int) -> None:
    """Tells the dataset and the sampler which epoch begins, so that each epoch is shuffled anew on all processes."""
    if hasattr(loader.dataset, 'set_epoch'):
        loader.dataset.set_epoch(epoch)
    if hasattr(loader.batch_sampler, 'set_epoch'):
        loader.batch_sampler.set_epoch(epoch)
    elif hasattr(loader.sampler, 'set_epoch'):
        loader.sampler.set_epoch(epoch)
    for part in (loader, getattr(loader, 'loader', None)):  # under the prefetcher
        if isinstance(part, SeededLoader):
            part.set_epoch(epoch)


def drop_prefetched(loader) -> None:
    """Drops batches that `--use-multi-epochs-loader` has made of the next epoch before it begins.

    Other loaders make none: they ask for an epoch's first batch when it begins.
    """
    plain = plain_loader(loader)
    if isinstance(plain, MultiEpochsDataLoader) and plain.num_workers:
        plain.iterator = None  # a new one makes the workers that run drop what they have
