"""Which class has which number in a validation, and what it is called."""

from collections.abc import Sequence

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch.utils.data import Dataset

from keepaug.data.checks import has_split_folders, image_extensions, is_image_folder, warn
from keepaug.data.classes import ClassList, dataset_classes, name_classes, number_classes, open_split
from keepaug.data.folders import find_split, name_some, split_folder, survey_classes
from keepaug.files.checkpoints import SAFETENSORS, read_exported, read_file, recorded_classes


def find_classes(args, model: torch.nn.Module, valid_labels: Sequence[int] | None = None) -> ClassList | None:
    """The list of classes by which the images are numbered.

    That of `--class-map` goes first, then what the checkpoint records. A model that records none has the classes of an
    image folder, if that has as many; if it has fewer, the training images beside it or ImageNet's list tell which.

    Args:
        args: Options, with the number of classes.
        model: The model.
        valid_labels: Numbers of the classes that are compared, in the order of the labels; None for all.

    Returns:
        The list; None where the data set numbers its classes itself.

    Raises:
        ValueError: The record is damaged, or a folder cannot be listed.
    """
    by_folders = is_image_folder(args.dataset)
    if args.class_map or (valid_labels is not None and not by_folders):  # whose labels count the chosen ones already
        return None
    flag = vars(args).get('named_by') or '--checkpoint'
    source = f'{flag} {args.checkpoint}' if args.checkpoint else f'--model {args.model}'
    held = read_file(args.checkpoint, flag) if args.checkpoint else {}
    if recorded := recorded_classes(held, source):
        return ClassList(
            _compared(recorded, valid_labels), f'--valid-labels {args.valid_labels}' if args.valid_labels else source
        )
    root = args.data or args.data_dir
    if not (by_folders and has_split_folders(args.dataset, root)):
        return None
    extensions = image_extensions(args.dataset, args.input_key)
    folder = split_folder(root, args.split, '--split')
    names = survey_classes(folder, extensions=extensions).classes.keys()
    exported = _compared(_exported_numbers(args, model), valid_labels)
    if names & exported.keys():  # else they are other words than the folders', such as descriptions
        return ClassList(exported, source)
    if len(names) >= args.num_classes or valid_labels is not None or not names:
        return None
    train = find_split(root, 'train')
    lists = [ClassList(number_classes(survey_classes(train, extensions=extensions).classes), train)] if train else []
    if subset := infer_imagenet_subset(dict(num_classes=args.num_classes)):
        synsets = ImageNetInfo(subset).label_names()
        lists.append(ClassList({name: index for index, name in enumerate(synsets)}, subset))
    for classes in lists:
        if names <= classes.class_to_idx.keys() and classes.count <= args.num_classes:
            return classes
    warn(
        [
            f"It is unknown which {len(names)} of the model's {args.num_classes} classes are in {folder}: its folders "
            f'({name_some(names)}) are numbered from 0. If any is missing in between, give a --class-map.'
        ]
    )
    return open_split(folder, extensions=extensions)[1]  # so that nobody else says it again


def class_names(dataset: Dataset, classes: ClassList | None, num_classes: int) -> list[str] | None:
    """Names of the classes by number, the number itself for one without a name; None where none has one.

    A folder's name may hold bytes that are no text, which no file or picture takes: question marks stand for them.

    Args:
        dataset: The images.
        classes: What `find_classes` found.
        num_classes: Classes that are compared.
    """
    names = name_classes(dataset_classes(dataset) or (classes.class_to_idx if classes else {}))
    shown = [names.get(index, str(index)).encode(errors='replace').decode() for index in range(num_classes)]
    return shown if names else None


def _exported_numbers(args, model: torch.nn.Module) -> dict[str, int]:
    """What an export says of its labels, which may be folders' names or other words; empty where it is silent.

    Raises:
        ValueError: The record is damaged.
    """
    if args.checkpoint.endswith(SAFETENSORS):
        names = read_exported(args.checkpoint, vars(args).get('named_by') or '--checkpoint')[0].get('label_names')
    else:
        names = () if args.checkpoint else getattr(model, 'pretrained_cfg', {}).get('label_names')
    if not isinstance(names, (list, tuple)) or len({*map(str, names)}) != len(names):
        return {}
    return {str(name): index for index, name in enumerate(names)}


def _compared(classes: dict[str, int], valid_labels: Sequence[int] | None) -> dict[str, int]:
    """The classes of which `--valid-labels` compares the logits, numbered as these are."""
    if valid_labels is None:
        return classes
    places = {label: place for place, label in enumerate(valid_labels)}
    return {name: places[index] for name, index in classes.items() if index in places}
