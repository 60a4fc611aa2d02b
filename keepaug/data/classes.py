"""Which class has which number: one list for all splits, whatever folders each of them happens to hold."""

import os
import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from timm.data.readers.class_map import load_class_map
from timm.utils import natural_key
from torch.utils.data import Dataset

from keepaug.console.errors import first_line
from keepaug.data.folders import TRAIN_NAMES, Survey, find_split, name_some, survey_classes
from keepaug.files.checkpoints import is_class_list


@dataclass(frozen=True)
class ClassList:
    """The classes of a run.

    Attributes:
        class_to_idx: Number of each class by its name.
        source: Where the list is from, for sentences.
        left_out: Names that are not in the list on purpose.
    """

    class_to_idx: Mapping[str, int]
    source: str
    left_out: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """Outputs that a model must have."""
        return max(self.class_to_idx.values()) + 1

    def choosing_from(self, names: Collection[str]) -> 'ClassList':
        """The list as one that leaves out what else there is, unless it names a class that is not there.

        Then the names that it lacks are more likely those of renamed folders.
        """
        return self if _missing(names, self) else replace(self, left_out=frozenset({*names} - {*self.class_to_idx}))


def number_classes(names: Iterable[str]) -> dict[str, int]:
    """Numbers of classes in timm's order, in which `c10` follows `c9`; names that differ in case only have one too."""
    return {name: index for index, name in enumerate(sorted(names, key=lambda name: (natural_key(name), name)))}


def open_split(
    root: str,
    class_map: str = '',
    whole: bool = False,
    extensions: Collection[str] | None = None,
) -> tuple[Survey, ClassList]:
    """The folders of a split and the list of classes that they make, or that `--class-map` gives.

    Args:
        root: Folder of the split, of training where there is one.
        class_map: File of the list, or its name in the folder or that of training beside. It may choose some of the
            folders.
        whole: See `survey_classes`.
        extensions: See `survey_classes`.

    Raises:
        ValueError: The file cannot be used, or a folder cannot be listed.
    """
    if not class_map:
        survey = survey_classes(root, whole=whole, extensions=extensions)
        return survey, ClassList(number_classes(survey.classes), root)
    classes = list_of_map(class_map, root, find_split(os.path.dirname(root), TRAIN_NAMES[0]))
    survey = survey_classes(root, classes.class_to_idx, whole, extensions)
    return survey, classes.choosing_from(survey.classes)


def list_of_map(path: str, *folders: str | None) -> ClassList:
    """The list in the file of `--class-map`: a text file with a name per line or a pickled dict.

    Args:
        path: The file.
        *folders: Where it may lie too, as far as they are there.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    folder = next((place for place in filter(None, folders) if os.path.exists(os.path.join(place, path))), '')
    try:
        class_to_idx = load_class_map(path, folder)
    except (AssertionError, OSError, ValueError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f'--class-map {path} cannot be read ({first_line(error)}): give a text file with one class name per line, '
            'or a pickled dict from names to numbers.'
        ) from error
    class_to_idx.pop('', None)  # an empty line at the end
    if not is_class_list(class_to_idx):
        raise ValueError(f'--class-map {path} must give each class name a number from 0, but it holds something else.')
    return ClassList(class_to_idx, f'--class-map {path}')


def check_split(survey: Survey, classes: ClassList) -> list[str]:
    """Compares the folders of a split with the list of classes.

    Returns:
        What the user should know, as sentences.

    Raises:
        ValueError: An image would get the number of another class, or none.
    """
    _check_tree(survey, own=classes.source == survey.root)
    return [*_describe_tree(survey), *check_names(survey.classes, classes, survey.root)]


def check_names(names: Iterable[str], classes: ClassList, place: str) -> list[str]:
    """Compares the names of the classes that a split has with the list.

    Args:
        names: Names.
        classes: The list.
        place: Where the split lies, for sentences.

    Returns:
        What the user should know, as sentences.

    Raises:
        ValueError: The list lacks a class.
    """
    names = list(names)
    others = [name for name in names if name not in classes.class_to_idx]
    unknown = sorted(set(others) - classes.left_out, key=natural_key)
    missing = _missing(names, classes)
    if unknown:
        raise ValueError(
            f'{place} has {_classes(unknown)}, which {classes.source} lacks'
            + (
                f', and has no images of {_classes(missing)}: if folders were renamed, a --class-map can give their '
                'present names the numbers they had.'
                if missing
                else ': remove what is not a class, or give a list of all classes with --class-map.'
            )
        )
    told = []
    if others:
        told.append(f'{place} has {_classes(others)}, which {classes.source} leaves out: these images are not used.')
    if missing:
        told.append(f'{place} has no images of {_classes(missing)}, which {classes.source} has.')
    return told


def check_numbers(class_to_idx: Mapping[str, int], classes: ClassList, place: str) -> None:
    """Compares the numbers that a data set gives to classes itself with those of the list.

    Raises:
        ValueError: A class has two numbers.
    """
    for name, index in class_to_idx.items():
        if classes.class_to_idx.get(name, index) != index:
            raise ValueError(
                f'{place} gives class {name} number {index}, but {classes.source} gives it '
                f'{classes.class_to_idx[name]}: use data with the same classes in the same order.'
            )


def name_classes(class_to_idx: Mapping[str, int]) -> dict[int, str]:
    """Names by number; of several names for one class the first."""
    names: dict[int, str] = {}
    for name, index in class_to_idx.items():
        names.setdefault(index, name)
    return names


def dataset_classes(dataset: Dataset) -> dict[str, int]:
    """Class numbers by name, as a data set tells them; empty where it does not."""
    reader = getattr(dataset, 'reader', dataset)
    told: Any = getattr(reader, 'class_to_idx', None) or getattr(reader, 'class_name_to_idx', None)  # of tar files
    return dict(told) if is_class_list(told) else {}


def check_loops(survey: Survey) -> None:
    """Refuses links that would lead a reader round in circles.

    Raises:
        ValueError: There is one.
    """
    if survey.loops:
        raise ValueError(
            f'{os.path.join(survey.root, survey.loops[0])} links to a folder that contains it, so its images would '
            'count many times: remove the link.'
        )


def _missing(names: Iterable[str], classes: ClassList) -> list[str]:
    """The classes of a list that none of the names stands for."""
    there = {classes.class_to_idx.get(name) for name in names}
    return [name for index, name in sorted(name_classes(classes.class_to_idx).items()) if index not in there]


def _classes(names: list[str]) -> str:
    return f'the class{"es" * (len(names) > 1)} {name_some(names)}'


def _check_tree(survey: Survey, own: bool) -> None:
    """What makes the classes of a folder ambiguous; a list from elsewhere settles some of it."""
    root = survey.root
    check_loops(survey)
    if not survey.classes:
        beside = f'; the {len(survey.loose)} images in it are in none' if survey.loose else ''
        raise ValueError(f'{root} has no folders with images, one per class{beside}.')
    if not own:
        return
    if survey.inner:
        inner = survey.inner[0]
        raise ValueError(
            f'{os.path.join(root, inner)} lies in the folder of another class, {os.path.dirname(inner)}: move it, or '
            'name the folders that are classes with --class-map.'
        )
    for name, places in survey.classes.items():
        if len(places) > 1:
            raise ValueError(
                f'{root} has two folders for the class {name}, {places[0]} and {places[1]}: give the folder that '
                'holds the class folders, or name the classes with --class-map.'
            )


def _describe_tree(survey: Survey) -> list[str]:
    """What in a folder is passed over or unusual."""
    root, told = survey.root, []
    if survey.hidden:
        told.append(f'{root} has images in hidden folders, which are not used: {name_some(survey.hidden)}.')
    if survey.loose:
        told.append(f'{root} has images beside its class folders, which are not used: {name_some(survey.loose)}.')
    deep = [place for places in survey.classes.values() for place in places if os.path.dirname(place)]
    if deep:
        told.append(f'Classes in {root} are the innermost folders, under their own names: {name_some(deep)}.')
    return told
