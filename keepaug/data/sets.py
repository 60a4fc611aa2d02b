"""Images on disk to data sets."""
import importlib.util
import logging
import os
from typing import Any

from timm.data import AugMixDataset, MultiLabelTarget, create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from torch.utils.data import Dataset, IterableDataset

from keepaug.console.errors import first_line
from keepaug.data.wrapped import Repeated, WrappedDataset
from keepaug.datasets import EMBEDDED_DATASETS, EMBEDDED_PREFIX, UNPACKED_DATASETS, create_embedded_dataset

_logger = logging.getLogger('train')

# What timm's readers and the packages behind them raise.
READER_ERRORS = (RuntimeError, AssertionError, ImportError, AttributeError, TypeError, KeyError, ValueError, OSError)
# What timm's readers import, by the prefix of `--dataset`.
READER_PACKAGES = {'hfds': 'datasets', 'hfids': 'datasets', 'tfds': 'tensorflow_datasets', 'wds': 'webdataset'}


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
        check_data_folder(name, root)
        dataset = create_embedded_dataset(
            name, split=split, num_samples=num_samples, root=root, input_img_mode=img_mode)
        _check_classes(name, dataset, args)
        return NamedFailures(dataset) if name in UNPACKED_DATASETS else dataset
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
            target_format=args.target_format,
            **reader_kwargs,
        )
    except READER_ERRORS as error:
        source = f'--dataset {name}' if name else f'the folder {root}'
        package = READER_PACKAGES.get(name.partition('/')[0].lower())
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(f'--dataset {name} needs the package {package}: pip install {package}.') from error
        raise ValueError(f'No {split} images come from {source}: {first_line(error)}.') from error
    _check_classes(root or name, dataset, args)
    if args.task == 'multilabel':
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
    if name in EMBEDDED_DATASETS and root:
        raise ValueError(f'--dataset {name} is built in and has no folder: drop {root}.')
    if name in UNPACKED_DATASETS and not root:
        raise ValueError(
            f'--dataset {name} needs the folder that its archive was unpacked to: give it as first argument or with '
            '--data-dir.')
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
    if needed > num_classes and vars(args).get('named_by') == '--compare':  # which brings its own number of classes
        raise ValueError(
            f'The data in {source} has {needed} classes, --compare {args.checkpoint or args.model} has {num_classes}; '
            'leave it out.')
    if needed > num_classes:
        raise ValueError(
            f'The data in {source} has {needed} classes, --num-classes is {num_classes}; give --num-classes {needed}.')
    if needed < num_classes:
        _logger.warning(f'The data in {source} has {needed} classes, the model {num_classes}.')


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
    if args.epoch_repeats > 1 and not isinstance(dataset, IterableDataset):  # streams repeat themselves
        dataset = Repeated(dataset, args.epoch_repeats)
    if args.aug_splits:
        dataset = AugMixDataset(dataset, num_splits=args.aug_splits)
    return dataset


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
