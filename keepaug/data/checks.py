"""What is wrong with the data, by names and listings alone, before anything is built."""

import logging
import os
from collections.abc import Iterable, Mapping

from keepaug.console.processes import is_first_process
from keepaug.data.classes import ClassList, check_split, list_of_map, open_split
from keepaug.data.folders import (
    SPLIT_NAMES,
    TRAIN_NAMES,
    find_split,
    name_some,
    split_folder,
    split_name,
    survey_classes,
)
from keepaug.datasets import EMBEDDED_DATASETS, EMBEDDED_PREFIX, UNPACKED_DATASETS, split_names
from keepaug.models.names import nearest_names
from keepaug.ranges import any_of

_logger = logging.getLogger('train')

# timm reads a folder of classes for any other name of a data set, and for these two of torchvision by split.
SCHEMES = ('torch', 'hfds', 'hfids', 'tfds', 'wds', EMBEDDED_PREFIX.rstrip('/'))
TORCH_FOLDERS = ('torch/folder', 'torch/image_folder')
# Readers without random access, by the start of a name in small letters.
STREAMS = ('tfds/', 'wds/', 'hfids/')
# Of these timm takes the test images for any split that is not called as one of training.
TORCH_IN_TWO = ('torch/cifar10', 'torch/cifar100', 'torch/mnist', 'torch/kmnist', 'torch/fashion_mnist')
TORCH = (
    *TORCH_IN_TWO,
    *TORCH_FOLDERS,
    *('torch/inaturalist', 'torch/inat', 'torch/places365', 'torch/qmnist', 'torch/imagenet'),
)
# Of torchvision's these can be downloaded from nowhere.
NOT_DOWNLOADED = ('torch/imagenet', *TORCH_FOLDERS)
# Readers that open no class map.
UNMAPPED = ('torch/',)

# How many classes a data set has that is known by its name.
CLASSES = {
    'torch/cifar10': 10,
    'torch/cifar100': 100,
    'torch/mnist': 10,
    'torch/kmnist': 10,
    'torch/fashion_mnist': 10,
    'keepaug/cluttered-digits': 10,
    'keepaug/cub': 200,
    'keepaug/tiny-imagenet': 200,
}


def plain_name(name: str) -> str:
    """The name of a data set in small letters, and of torchvision's without what timm passes over in it."""
    scheme, *rest = name.lower().split('/', 2)
    return f'torch/{rest[-1]}' if scheme == 'torch' and rest else name.lower()


def is_image_folder(name: str) -> bool:
    """Whether the name of a data set stands for a folder (or tar file) of classes in timm's own reader."""
    scheme, slash, _ = name.partition('/')
    return not slash or scheme.lower() not in SCHEMES


def has_split_folders(name: str, root: str | None) -> bool:
    """Whether the splits of a data set are folders below `root`."""
    return (is_image_folder(name) or plain_name(name) in TORCH_FOLDERS) and os.path.isdir(root or '')


def image_extensions(name: str, input_key: str | None) -> list[str] | None:
    """How names of images end, which `--input-key` says for folders; None for timm's own choice."""
    return input_key.split(';') if input_key and is_image_folder(name) else None


def check_data_folder(name: str, root: str | None, splits: Mapping[str, str] | None = None) -> None:
    """Says in a sentence what is wrong with the data folder, before anything is built.

    Args:
        name: Value of `--dataset`.
        root: Data folder, or None.
        splits: Names of splits that must be there, by the flag that gives them.

    Raises:
        ValueError: No folder is given, or it does not exist, is empty or has not these splits.
    """
    if name.lower().startswith(EMBEDDED_PREFIX) and name not in (known := [*EMBEDDED_DATASETS, *UNPACKED_DATASETS]):
        raise ValueError(f'--dataset {name} is unknown: choose {any_of(known)}.')
    if (known_as := plain_name(name)).startswith('torch/') and known_as not in TORCH:
        raise ValueError(f'--dataset {name} is unknown: {nearest_names(known_as, TORCH)}')
    if name in EMBEDDED_DATASETS and root:
        raise ValueError(f'--dataset {name} is built in and needs no folder: drop {root}.')
    if name in UNPACKED_DATASETS:
        if not root:
            raise ValueError(
                f'--dataset {name} needs the folder that its archive was unpacked to: give it as the first argument or '
                'with --data-dir.'
            )
        if not os.path.exists(root):
            raise ValueError(
                f'The folder {root} of --dataset {name} does not exist: give the folder its archive was unpacked to.'
            )
    if is_image_folder(name):
        wanted = f'with {"val" if "--split" in (splits or {}) else "train and val"} in it'
        if not root:
            raise ValueError('No data given: name the image folder as the first argument or with --data-dir.')
        if not os.path.exists(root):
            raise ValueError(f'The data folder {root} does not exist: give --data-dir a folder {wanted}.')
        if os.path.isdir(root) and not os.listdir(root):
            raise ValueError(f'The data folder {root} is empty: give --data-dir a folder {wanted}.')
    for flag, split in (splits or {}).items():
        check_split_name(name, root, split, flag)


def check_image_folder(flag: str, folder: str) -> None:
    """Says what is wrong with a folder of images that a flag names, whatever folders in it they lie in.

    Args:
        flag: The flag.
        folder: The folder, or a tar file.

    Raises:
        ValueError: It does not exist, or holds no images.
    """
    if not os.path.exists(folder):
        raise ValueError(f'{flag} {folder or repr(folder)} does not exist: name a folder of images.')
    if os.path.isdir(folder):
        found = survey_classes(folder)
        if not (found.classes or found.loose or found.hidden):
            raise ValueError(f'{flag} {folder} holds no images: name a folder that does.')


def count_classes(args) -> int | None:
    """Classes that the training set holds images of, as far as names and listings tell; None where they do not."""
    name, root = args.dataset, args.data_dir or args.data
    if not (is_image_folder(name) and os.path.isdir(root or '')):
        return CLASSES.get(plain_name(name))
    train = split_folder(root, args.train_split, '--train-split')
    found, classes = open_split(train, args.class_map, extensions=image_extensions(name, args.input_key))
    return len({*found.classes} & {*classes.class_to_idx})


def check_split_name(name: str, root: str | None, split: str, flag: str) -> None:
    """Says that a split is not there where timm would take other images instead.

    Args:
        name: Value of `--dataset`.
        root: Data folder, or None.
        split: Name of the split.
        flag: The flag that gives it.

    Raises:
        ValueError: There is no such split.
    """
    if root and has_split_folders(name, root):
        split_folder(root, split, flag)
    elif plain_name(name) in TORCH_IN_TWO and split_name(split) not in SPLIT_NAMES:
        raise ValueError(
            f'{flag} {split or repr(split)} is not in --dataset {name}, which has train and test: name one of the two.'
        )
    elif name.startswith(EMBEDDED_PREFIX) and split not in (known := split_names(name)):
        raise ValueError(f'{flag} {split or repr(split)} is not in --dataset {name}: choose {any_of(known)}.')


def check_named_set(args) -> None:
    """Says what is wrong with a data set that is known by its name, as far as that tells: its folder, its classes.

    Raises:
        ValueError: Its folder is not there or empty, or it has more classes than `--num-classes`.
    """
    name, root = args.dataset, args.data_dir or args.data
    known_as = plain_name(name)
    loads = args.dataset_download and known_as not in NOT_DOWNLOADED
    of_torch = known_as.startswith('torch/') and not loads
    way_out = 'give it with --data-dir' + ('.' if known_as in NOT_DOWNLOADED else ', or add --dataset-download.')
    if of_torch and not os.path.isdir(root or ''):
        what = f'the folder {root} does not exist' if root else 'no folder is given'
        raise ValueError(f'--dataset {name} is read from a folder, but {what}: {way_out}')
    count = CLASSES.get(known_as)
    if count is not None and args.num_classes is not None and count > args.num_classes:
        raise ValueError(
            f'--dataset {name} has {count} classes, but --num-classes is {args.num_classes}: give --num-classes '
            f'{count}.'
        )
    if of_torch and not os.listdir(root):
        raise ValueError(f'--dataset {name} is read from a folder, but the folder {root} is empty: {way_out}')


def check_class_map(args, split: str, flag: str) -> None:
    """Says that the file of `--class-map` cannot be used; torchvision's sets never open it, and are not asked.

    Args:
        args: Options.
        split: Name of the split that is read first.
        flag: The flag that gives it.

    Raises:
        ValueError: It is not there, or is no list of classes.
    """
    root = args.data_dir or args.data
    if not args.class_map or args.dataset.lower().startswith(UNMAPPED):
        return
    if has_split_folders(args.dataset, root):
        list_of_map(args.class_map, split_folder(root, split, flag), find_split(root, TRAIN_NAMES[0]))
    else:
        list_of_map(args.class_map, root, os.path.dirname(root or ''))


def check_class_folders(args) -> None:
    """Says, by the folders alone, what would give an image of either split the number of another class.

    Reading the images settles the rest: folders below those of classes, and data sets that number classes themselves.

    Raises:
        ValueError: A split is not there, has a class that the list of classes lacks, or there are more classes than
            `--num-classes`.
    """
    name, root = args.dataset, args.data_dir or args.data
    splits = {'--train-split': args.train_split, '--val-split': args.val_split}
    for flag, split in splits.items():
        if split or flag == '--train-split':
            check_split_name(name, root, split, flag)
    if args.val_split and is_image_folder(name) and os.path.isfile(root):
        raise ValueError(
            f"{root} is one file for both splits, so validation would use the training images: give --val-split '' to "
            'train without it, or a folder with train and val in it.'
        )
    if not has_split_folders(name, root):
        return
    train = split_folder(root, args.train_split, '--train-split')
    val = split_folder(root, args.val_split, '--val-split') if args.val_split else None
    if train == val == root:
        raise ValueError(
            f'{root} has no folders {args.train_split or TRAIN_NAMES[0]} and {args.val_split}, so validation would '
            "use the training images: give --val-split '' to train without it, or a folder with both."
        )
    if val is not None and os.path.samefile(train, val):
        warn([f'Training and validation read the same images, in {train}.'])
    if not is_image_folder(name):
        return
    extensions = image_extensions(name, args.input_key)
    training, classes = open_split(train, args.class_map, extensions=extensions)
    told = check_split(training, classes)
    if val is not None:
        told += check_split(survey_classes(val, classes.class_to_idx, extensions=extensions), classes)
    if args.num_classes is not None and classes.count > args.num_classes:
        raise too_many(classes, root, args.num_classes)
    if args.check:  # a run says so when it builds the data sets
        warn(told)


def warn(sentences: Iterable[str]) -> None:
    """Says in the log what the user should know of the data, once for all processes."""
    for sentence in sentences if is_first_process() else ():
        _logger.warning(sentence)


def too_many(classes: ClassList, place: str, num_classes: int) -> ValueError:
    """The error of labels that the head has no output for."""
    return ValueError(
        f'The data in {place} has {classes.count} classes ({name_some(classes.class_to_idx)}), but --num-classes is '
        f'{num_classes}: give --num-classes {classes.count}.'
    )
