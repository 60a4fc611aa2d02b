"""Images on disk to data sets."""

import importlib.util
import logging
import os
import tarfile
from collections.abc import Callable
from typing import Any

from PIL import Image
from timm.data import AugMixDataset, ImageDataset, MultiLabelTarget, create_dataset
from torch.utils.data import Dataset, IterableDataset

from keepaug.console.errors import first_line
from keepaug.console.processes import is_first_process
from keepaug.data.checks import (
    NOT_DOWNLOADED,
    TORCH_FOLDERS,
    UNMAPPED,
    check_data_folder,
    check_image_folder,
    has_split_folders,
    image_extensions,
    is_image_folder,
    plain_name,
    too_many,
    warn,
)
from keepaug.data.classes import (
    ClassList,
    check_loops,
    check_names,
    check_numbers,
    check_split,
    dataset_classes,
    list_of_map,
    number_classes,
    open_split,
)
from keepaug.data.depth import CONVERTED_HERE, convert_deep
from keepaug.data.folders import is_hidden, split_folder, split_name, survey_classes
from keepaug.data.unreadable import NamedFailures
from keepaug.data.wrapped import Repeated
from keepaug.datasets import EMBEDDED_PREFIX, UNPACKED_DATASETS, create_embedded_dataset

_logger = logging.getLogger('train')

# What timm's readers and the packages behind them raise.
READER_ERRORS = (RuntimeError, AssertionError, ImportError, AttributeError, TypeError, KeyError, ValueError, OSError)
# What timm's readers import, by the prefix of `--dataset`.
READER_PACKAGES = {'hfds': 'datasets', 'hfids': 'datasets', 'tfds': 'tensorflow_datasets', 'wds': 'webdataset'}


def build_dataset(
    args,
    split: str,
    *,
    root: str | None,
    channels: int,
    flag: str = '--split',
    classes: ClassList | None = None,
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
        flag: The flag that gives the split, for sentences.
        classes: The list of classes of another split or of a checkpoint; unset: that of `--class-map` or, for an image
            folder, of this split.
        num_samples: Samples of an epoch, for data sets that cannot tell.
        is_training: Whether iterable data sets shuffle.
        **reader_kwargs: Further arguments of `timm.data.create_dataset`.

    Raises:
        ValueError: The folder or the split is missing, empty, holds classes that the list lacks or labels beyond the
            class count.
    """
    dataset: Any  # timm's, torchvision's or our own
    name = args.dataset
    img_mode = args.input_img_mode or ('RGB' if channels == 3 else 'L')
    bands = Image.getmodebands(img_mode)
    if bands != channels and not name.lower().startswith('torch/'):  # whose readers pass over it
        raise ValueError(
            f'--input-img-mode {img_mode} has {bands} channel{"s" * (bands > 1)}, but the model reads {channels}: give '
            f'--in-chans {bands}, or another mode.'
        )
    if name.startswith(EMBEDDED_PREFIX):
        check_data_folder(name, root)
        dataset = create_embedded_dataset(
            name, split=split, num_samples=num_samples, root=root, input_img_mode=img_mode
        )
        dataset = _numbered_by_itself(args, dataset, classes)
        return NamedFailures(dataset) if name in UNPACKED_DATASETS else dataset
    check_data_folder(name, root, {flag: split})
    settings = dict(
        search_split=False,
        is_training=is_training,
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

    def create(root: str | None, class_map: Any) -> Any:
        return _create(args, split, root, class_map, **settings)

    folder = root
    if root and has_split_folders(name, root):
        folder = split_folder(root, split, flag)
        _describe_split(root, folder, split)
    if folder is None or not is_image_folder(name):
        dataset = _numbered_by_itself(args, create(folder, args.class_map), classes)
    elif os.path.isdir(folder):
        dataset = _read_folder(args, folder, classes, create)
    else:
        dataset = _read_tar(args, folder, classes, create)
    if args.task == 'multilabel':
        dataset.target_transform = MultiLabelTarget(args.num_classes, dense=args.target_format == 'multihot')
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, 'reader'):
        return dataset
    return NamedFailures(dataset)


def _create(args, split: str, root: str | None, class_map: Any, **kwargs: Any) -> Dataset:
    """The dataset as timm makes it; what its readers stumble over in a sentence."""
    name, mode = args.dataset, kwargs['input_img_mode']
    if name.lower().startswith(CONVERTED_HERE):
        kwargs['input_img_mode'] = ''
    try:
        dataset = create_dataset(name, root=root, split=split, class_map=class_map, **kwargs)
        return convert_deep(dataset, name, mode)
    except READER_ERRORS as error:
        source = f'--dataset {name}' if name else f'the folder {root}'
        package = READER_PACKAGES.get(name.partition('/')[0].lower())
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(f'--dataset {name} needs the package {package}: pip install {package}.') from error
        if 'download=True' in str(error):
            way_out = '.' if plain_name(name) in NOT_DOWNLOADED else ', or add --dataset-download.'
            raise ValueError(
                f'{source} is not in the folder {root}, or not whole: give the folder it was unpacked to with '
                f'--data-dir{way_out}'
            ) from error
        raise ValueError(f'{source} gives no {split} images: {first_line(error)}.') from error


def _describe_split(root: str, folder: str, split: str) -> None:
    """Says how a folder is read where the name of the split does not tell."""
    if folder == root and is_first_process():
        _logger.info(f'{root} has no split folders, so its class folders are used as they are.')
    if split_name(split) != split:
        warn([f'The split {split} of an image folder is all of {folder}, which cannot be split further.'])


def _read_folder(args, folder: str, classes: ClassList | None, create: Callable[..., Any]) -> Dataset:
    """An image folder, its classes numbered by the list."""
    extensions, own = image_extensions(args.dataset, args.input_key), classes is None
    if classes is None:
        survey, classes = open_split(folder, args.class_map, whole=True, extensions=extensions)
    else:
        survey = survey_classes(folder, classes.class_to_idx, whole=True, extensions=extensions)
    warn(check_split(survey, classes))
    _check_count(args, classes, folder, own)
    dataset = create(folder, dict(classes.class_to_idx))
    if survey.hidden:  # where a folder may have the name of a class
        reader = dataset.reader
        reader.samples = [
            (path, index)
            for path, index in reader.samples
            if not any(map(is_hidden, os.path.relpath(path, folder).split(os.sep)[:-1]))
        ]
    return dataset


def _read_tar(args, path: str, classes: ClassList | None, create: Callable[..., Any]) -> Dataset:
    """A tar file of class folders, its classes numbered by the list."""
    dataset, own = create(path, None), classes is None
    held = dataset_classes(dataset)
    names = [name for name in held if name and not is_hidden(name)]
    if classes is None and args.class_map:
        classes = list_of_map(args.class_map, os.path.dirname(path)).choosing_from(names)
    elif classes is None:
        classes = ClassList(number_classes(names), path)
    warn(check_names(names, classes, path))
    _check_count(args, classes, path, own)
    return dataset if classes.class_to_idx == held else create(path, dict(classes.class_to_idx))


def _numbered_by_itself(args, dataset: Dataset, classes: ClassList | None) -> Dataset:
    """A data set that numbers its classes, after a look at these numbers."""
    numbers, place = dataset_classes(dataset), f'--dataset {args.dataset}'
    if args.class_map and args.dataset.lower().startswith((*UNMAPPED, EMBEDDED_PREFIX)):
        warn([f'--class-map {args.class_map} has no effect on {place}, which numbers its classes itself.'])
    if classes is not None and not args.class_map:
        if plain_name(args.dataset) in TORCH_FOLDERS:
            warn(check_names(numbers, classes, place))
        check_numbers(numbers, classes, place)
    if numbers:
        _check_count(args, ClassList(numbers, place), place, own=classes is None)
    return dataset


def _check_count(args, classes: ClassList, place: str, own: bool) -> None:
    """Labels the head has no output for are refused; a head with more outputs than its own labels is only said."""
    num_classes = args.num_classes
    if num_classes is None:
        return
    if classes.count > num_classes and vars(args).get('named_by') == '--compare':  # brings its own number of classes
        raise ValueError(
            f'The data in {place} has {classes.count} classes, but --compare {args.checkpoint or args.model} has '
            f'{num_classes}: leave it out.'
        )
    if classes.count > num_classes:
        raise too_many(classes, place, num_classes)
    if own and classes.count < num_classes:
        held = '1 class' if classes.count == 1 else f'{classes.count} classes'
        warn([f'The data in {place} has {held}, but the model has {num_classes}.'])


def build_train_dataset(args, data_config: dict[str, Any], classes: ClassList | None = None) -> Dataset:
    """The training dataset, with augmentation splits.

    Sets `args.class_to_idx`, which the validation images are numbered by and checkpoints record.

    Args:
        args: Options.
        data_config: How images enter the model.
        classes: The list of classes, where it is not for the training images to make it.
    """
    dataset = build_dataset(
        args,
        args.train_split,
        root=args.data_dir or args.data,
        channels=data_config['input_size'][0],
        flag='--train-split',
        classes=classes,
        num_samples=args.train_num_samples,
        is_training=True,
        repeats=args.epoch_repeats,
    )
    args.class_to_idx = dataset_classes(dataset)
    if args.epoch_repeats > 1 and not isinstance(dataset, IterableDataset):  # streams repeat themselves
        dataset = Repeated(dataset, args.epoch_repeats)
    if args.aug_splits:
        dataset = AugMixDataset(dataset, num_splits=args.aug_splits)
    return dataset


def open_image_folder(folder: str, img_mode: str, flag: str) -> Dataset:
    """All images below a folder, whatever folders they lie in; their labels mean nothing.

    Args:
        folder: The folder.
        img_mode: What images become, such as 'RGB'.
        flag: The flag that gives the folder, for sentences.

    Raises:
        ValueError: There is no such folder, or no image in it.
    """
    check_image_folder(flag, folder)
    if os.path.isdir(folder):
        check_loops(survey_classes(folder, whole=True))
    try:
        return NamedFailures(ImageDataset(folder, input_img_mode=img_mode))
    except (RuntimeError, ValueError, OSError, tarfile.TarError) as error:  # of a file that is no tar file of images
        raise ValueError(f'{flag} {folder} holds no images: name a folder that does.') from error


def build_eval_dataset(args, data_config: dict[str, Any]) -> Dataset | None:
    """The validation dataset, its classes numbered as in training; None with an empty `--val-split`."""
    if not args.val_split:
        return None
    root = args.data_dir or args.data
    return build_dataset(
        args,
        args.val_split,
        root=root,
        channels=data_config['input_size'][0],
        flag='--val-split',
        classes=_training_classes(args, root),
        num_samples=args.val_num_samples,
    )


def _training_classes(args, root: str | None) -> ClassList | None:
    """The list of classes that the training images made, once they are built; None where they do not tell."""
    if args.class_map:
        if not (root and is_image_folder(args.dataset) and os.path.isdir(root)):
            return None
        train = split_folder(root, args.train_split, '--train-split')
        return open_split(train, args.class_map, extensions=image_extensions(args.dataset, args.input_key))[1]
    return ClassList(args.class_to_idx, 'the training split') if args.class_to_idx else None
