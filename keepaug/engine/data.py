"""Images on disk to batches on the device."""
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import Any, Callable

import torch
from PIL import Image
from timm.data import (
    AugMixDataset,
    FastCollateMixup,
    Mixup,
    MultiLabelTarget,
    NaFlexMixup,
    auto_augment,
    create_dataset,
    create_loader,
    resolve_input_data_config,
)
from timm.data.loader import MultiEpochsDataLoader
from timm.data.readers.img_extensions import get_img_extensions
from torch.utils.data import Dataset, IterableDataset

from keepaug.datasets import EMBEDDED_PREFIX, create_embedded_dataset
from keepaug.engine.copies import Copies, change_transform, collate_splits
from keepaug.engine.naflex import create_patch_loader, eval_patches, train_patches
from keepaug.engine.sentence import first_line
from keepaug.engine.seeding import SeededLoader, plain_loader, seed_loader, seed_samples
from keepaug.engine.wrapped_dataset import WrappedDataset, wrap_dataset

_logger = logging.getLogger('train')

# What timm's readers and the packages behind them raise.
READER_ERRORS = (RuntimeError, AssertionError, ImportError, AttributeError, TypeError, KeyError, ValueError, OSError)
# What timm's readers import, by the prefix of `--dataset`.
READER_PACKAGES = {'hfds': 'datasets', 'hfids': 'datasets', 'tfds': 'tensorflow_datasets', 'wds': 'webdataset'}


class SharedSwitchCollate(FastCollateMixup):
    """timm's mixing collate function whose on/off switch reaches loader workers that are already running.

    Stock keeps the switch as a plain attribute, of which every persistent worker holds its own copy, so that
    `--mixup-off-epoch` changes nothing there. Here it lives in shared memory.
    """

    def __init__(self, **mixup_args):
        self._enabled = torch.ones(1, dtype=torch.bool).share_memory_()
        super().__init__(**mixup_args)

    @property
    def mixup_enabled(self) -> bool:
        return bool(self._enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self._enabled.fill_(enabled)


class NamedFailures(WrappedDataset):
    """A data set that says which image could not be read.

    timm skips up to ten unreadable images in a row with a warning each, then gives up without a name.
    """

    def __getitem__(self, index: int):
        try:
            return self.dataset[index]
        except RuntimeError as error:
            if 'consecutive samples' not in str(error):
                raise
            name = self.dataset.filename(index, absolute=True)
            raise OSError(f'{name} and the images listed after it cannot be read; mend or remove them.') from error


def build_dataset(
        args,
        split: str,
        *,
        root: str | None,
        channels: int,
        num_samples: int | None = None,
        is_training: bool = False,
        **reader_kwargs,
) -> Dataset:
    """A dataset by the dataset flags: an image folder, a name timm knows, or one of our own.

    Args:
        args: Options of either script.
        split: Split name, such as 'train'.
        root: Data folder.
        channels: Channels the model reads, which chooses colour or grey where `--input-img-mode` does not.
        num_samples: Samples of an epoch, for data sets that cannot tell.
        is_training: Whether iterable data sets shuffle.
        **reader_kwargs: Further arguments of `timm.data.create_dataset`.

    Raises:
        ValueError: The folder is missing, empty, or holds labels beyond the class count.
    """
    name = args.dataset
    img_mode = args.input_img_mode or ('RGB' if channels == 3 else 'L')
    if name.startswith(EMBEDDED_PREFIX):
        dataset = create_embedded_dataset(name, split=split, num_samples=num_samples, input_img_mode=img_mode)
        _check_classes(name, dataset, args)
        return dataset
    check_data_folder(name, root)
    try:
        dataset = create_dataset(
            name,
            root=root,
            split=split,
            is_training=is_training,
            class_map=args.class_map,
            download=args.dataset_download,
            batch_size=args.batch_size,
            seed=args.seed,
            input_img_mode=img_mode,
            input_key=args.input_key,
            target_key=args.target_key,
            num_samples=num_samples,
            trust_remote_code=args.dataset_trust_remote_code,
            target_format=getattr(args, 'target_format', None),
            **reader_kwargs,
        )
    except READER_ERRORS as error:
        source = f'--dataset {name}' if name else f'the folder {root}'
        package = READER_PACKAGES.get(name.partition('/')[0].lower())
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(f'--dataset {name} needs the package {package}: pip install {package}.') from error
        raise ValueError(f'No {split} images come from {source}: {first_line(error)}.') from error
    _check_classes(root or name, dataset, args)
    if getattr(args, 'task', None) == 'multilabel':
        dataset.target_transform = MultiLabelTarget(args.num_classes, dense=args.target_format == 'multihot')
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, 'reader'):
        return dataset
    return NamedFailures(dataset)


def check_data_folder(name: str, root: str | None) -> None:
    """Says in a sentence what is wrong with the data folder, before anything is built.

    Args:
        name: Value of `--dataset`.
        root: Data folder, or None.

    Raises:
        ValueError: No folder is given, or it does not exist or is empty.
    """
    if name.startswith(EMBEDDED_PREFIX) and root:
        raise ValueError(f'--dataset {name} is built in and has no folder: drop {root}.')
    if '/' in name:
        return  # names with a scheme (torch/, hfds/, wds/, keepaug/ ...) know where their data lies
    if not root:
        raise ValueError('No data: give the image folder as first argument or with --data-dir.')
    if not os.path.exists(root):
        raise ValueError(f'The data folder {root} does not exist; give --data-dir a folder with train and val in it.')
    if os.path.isdir(root) and not os.listdir(root):
        raise ValueError(f'The data folder {root} is empty; give --data-dir a folder with train and val in it.')


def check_class_folders(args) -> None:
    """Says, by the folders alone, that an image folder has more classes than `--num-classes`.

    Reading the images settles it later, for nested folders and class maps too.

    Raises:
        ValueError: There are more classes.
    """
    root = args.data_dir or args.data
    if args.dataset or args.class_map or args.num_classes is None or not os.path.isdir(root):
        return
    split = os.path.join(root, args.train_split)
    extensions = tuple(get_img_extensions())
    with os.scandir(split if os.path.isdir(split) else root) as entries:
        classes = sum(_holds_files(entry.path, extensions) for entry in entries if entry.is_dir())
    if classes > args.num_classes:
        raise ValueError(
            f'The data in {root} has {classes} classes, --num-classes is {args.num_classes}; '
            f'give --num-classes {classes}.')


def _holds_files(folder: str, extensions: tuple[str, ...]) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(extensions) for entry in entries)


def _check_classes(source: str, dataset: Dataset, args) -> None:
    """Labels the head has no output for are refused; a head with more outputs than labels is only said."""
    num_classes = args.num_classes
    class_to_idx = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None)
    if not class_to_idx or num_classes is None:
        return
    needed = max(class_to_idx.values()) + 1
    if needed > num_classes and getattr(args, 'named_by', '') == '--compare':  # which brings its own number of classes
        raise ValueError(
            f'The data in {source} has {needed} classes, --compare {args.checkpoint or args.model} has {num_classes}; '
            'leave it out.')
    if needed > num_classes:
        raise ValueError(
            f'The data in {source} has {needed} classes, --num-classes is {num_classes}; give --num-classes {needed}.')
    if needed < num_classes:
        _logger.warning(f'The data in {source} has {needed} classes, the model {num_classes}.')


def mixing_is_on(args) -> bool:
    """Whether stock's mixup or cutmix mixes labels in this run."""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def build_mixing(args) -> tuple[Mixup | None, Callable | None]:
    """Stock's mixup and cutmix: on device without the prefetcher, in the loader with it and with `--naflex-loader`.

    Returns:
        What mixes on the device, and what mixes in the loader: its collate function, or NaFlex's mixer.
    """
    if not mixing_is_on(args):
        return None, None
    mixup_args = dict(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        label_smoothing=args.smoothing,
        num_classes=args.num_classes,
        multi_label=args.task == 'multilabel',
    )
    if args.naflex_loader:  # which pairs images of like shape, whatever the mode, and ends by the epoch it is told
        return None, NaFlexMixup(**mixup_args, mixup_off_epoch=args.mixup_off_epoch)
    mixup_args.update(cutmix_minmax=args.cutmix_minmax, mode=args.mixup_mode)
    if args.prefetcher:
        return None, SharedSwitchCollate(**mixup_args)
    return Mixup(**mixup_args), None


def build_train_dataset(args, data_config: dict[str, Any]) -> Dataset:
    """The training dataset, with augmentation splits and the transforms of ours that the flags ask for."""
    dataset = build_dataset(
        args,
        args.train_split,
        root=args.data_dir or args.data,
        channels=data_config['input_size'][0],
        num_samples=args.train_num_samples,
        is_training=True,
        repeats=args.epoch_repeats,
    )
    if args.aug_splits:
        dataset = AugMixDataset(dataset, num_splits=args.aug_splits)
    return wrap_dataset(dataset, args)


def image_shapes(args, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """An empty image of every size the run will train on a bare model."""
    channels, *size = resolve_input_data_config(model, args=vars(args))['input_size']
    like = next(model.parameters())
    for shape in [(edge, edge) for edge in getattr(args, 'train_img_sizes', None) or ()] or [size]:
        yield like.new_zeros(1, channels, *shape)


def build_eval_dataset(args, data_config: dict[str, Any]) -> Dataset | None:
    """The validation dataset; None with an empty `--val-split`."""
    if not args.val_split:
        return None
    return build_dataset(
        args,
        args.val_split,
        root=args.data_dir or args.data,
        channels=data_config['input_size'][0],
        num_samples=args.val_num_samples,
    )


def build_train_loader(args, dataset: Dataset, data_config: dict, device: torch.device, dtype: torch.dtype,
                       collate_fn: Callable | None):
    """Training batches, as the loader flags describe them.

    Raises:
        ValueError: The flags do not fit each other, or the data gives less than one batch.
    """
    if (args.aug_splits or args.augment_copies > 1) and not args.prefetcher:
        collate_fn = collate_splits
    if args.aa:
        mend_posterize()
    dataset = seed_samples(args, dataset)
    interpolation = args.train_interpolation
    if args.no_aug or not interpolation:
        interpolation = data_config['interpolation']
    if args.naflex_loader:
        create, settings = create_patch_loader, dict(mixup_fn=collate_fn, **train_patches(args, data_config))
    else:
        create, settings = create_loader, dict(
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
    if args.augment_copies > 1:
        change_transform(loader.dataset, lambda transform: Copies(transform, args.augment_copies))
    if len(loader) == 0:
        raise ValueError(
            f'The training set has fewer images than one batch: lower --batch-size {args.batch_size} or add images.')
    return seed_loader(loader, dataset, args.seed)


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
    if args.naflex_loader:
        create, shape = create_patch_loader, eval_patches(args, data_config)
    else:
        create, shape = create_loader, dict(input_size=data_config['input_size'])
    return create(
        dataset,
        batch_size=args.validation_batch_size or args.batch_size,
        is_training=False,
        interpolation=data_config['interpolation'],
        crop_pct=data_config['crop_pct'],
        **shape,
        **settings,
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
