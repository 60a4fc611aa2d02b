"""Boxes around the objects of images, as the usual files have them and as the model sees them.

A box is x0, y0, x1, y1 in pixels, half-open as in torchvision: pixel 0 alone is the box from 0 to 1.
"""

import contextlib
import csv
import logging
import math
import os
import xml.etree.ElementTree
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keepaug.console.errors import first_line
from keepaug.evaluation.geometry import move_boxes, moving_steps
from keepaug.evaluation.turned import Box, Stored, are_upright, fits, read_header, turn_back

_logger = logging.getLogger('validate')

# Images whose headers tell, before the pass, whether turned photographs are among them, and what their boxes are of.
LOOKED_AT = 2000


class TrueBoxes:
    """The boxes of a data set's images, in pixels of what the model sees."""

    def __init__(self, dataset: Any, transform: Callable | None, path: str = ''):
        """
        Args:
            dataset: Map-style data set; one that has a method `box` knows its boxes, such as
                `keepaug/cluttered-digits`, others name their files and open them, as timm's image folders do.
            transform: What it is evaluated with.
            path: File or folder of boxes (see `read_boxes`); empty for those that the data set knows, or has a file of.

        Raises:
            ValueError: There are no boxes, they are not those of these images, or cannot follow the transform.
        """
        path = path or getattr(getattr(dataset, 'reader', None), 'boxes_file', '')
        self.dataset = dataset
        self.steps = moving_steps(transform)
        self.path = path
        self._boxes: dict[int, list[Box]] | None = None
        self._upright: bool | None = None
        if not path:
            if not hasattr(dataset, 'box'):
                raise ValueError(
                    '--evaluate localization needs boxes, which this data set does not have: name a file or folder '
                    'of boxes with --gt-boxes.'
                )
            return
        if not hasattr(dataset, 'filename'):
            raise ValueError(
                f'--gt-boxes {path} matches boxes by file name, which this data set does not have: use an image folder.'
            )
        named = read_boxes(path)
        names = [dataset.filename(index) for index in range(len(dataset))]
        self._boxes, missing = match(named, names, path)
        if not self._boxes:
            raise ValueError(
                f'--gt-boxes {path} has boxes for {len(named)} images, {missing[0]} first, but the data set holds '
                f'none of these images: name those of its files, such as {names[0]}.'
            )
        _logger.info(
            f'--gt-boxes {path}: boxes for {len(self._boxes)} of {len(names)} images, {len(names) - len(self._boxes)} '
            f'have none and are left out. {len(missing)} other images that the file names are not in the data set.'
        )
        self._upright = self._look_for_turned(self._boxes)

    @property
    def numbers(self) -> Sequence[int]:
        """Numbers of the images that have boxes, ascending."""
        return range(len(self.dataset)) if self._boxes is None else sorted(self._boxes)

    def __call__(self, index: int) -> Tensor:
        """The boxes of an image where the model sees it, cut to what it sees.

        Args:
            index: Number of the image in the data set.

        Returns:
            float32 (n, 4), XYXY; n is 0 where no box is known, or none is seen.

        Raises:
            ValueError: A box lies outside its image.
        """
        boxes, size = self._of_image(index)
        moved = move_boxes(boxes, self.steps, size)
        return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])].float()

    def _of_image(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """Boxes (n, 4) of an image as it is stored, and its size (H, W)."""
        if self._boxes is None:
            return self.dataset.box(index)[None].double(), tuple(self.dataset.mask(index).shape)
        if index not in self._boxes:
            return torch.zeros(0, 4, dtype=torch.float64), (1, 1)
        stored, boxes = self._header(index), self._boxes[index]
        upright = self._upright
        if upright is None:
            upright = not fits(boxes, stored.size) and fits(boxes, stored.upright)
        height, width = size = stored.upright if upright else stored.size
        strange = next((box for box in boxes if not fits([box], size)), None)
        if strange is not None:
            raise ValueError(
                f'--gt-boxes {self.path}: the box {strange} lies outside {self.dataset.filename(index)}, which has '
                f'{width} x {height} pixels: boxes must refer to the images as stored, or to photographs turned '
                'upright by their EXIF data.'
            )
        found = torch.tensor(boxes, dtype=torch.float64)
        return (turn_back(found, stored) if upright else found), stored.size

    def _header(self, index: int) -> Stored:
        with self.dataset.reader[index][0] as file:
            return read_header(file)

    def _look_for_turned(self, known: Mapping[int, list[Box]]) -> bool | None:
        """Whether the boxes of turned photographs are of the upright images; None where nothing tells."""
        numbers = self.numbers[:: math.ceil(len(self.numbers) / LOOKED_AT)]
        headers = []
        for index in numbers:
            with contextlib.suppress(OSError):  # the pass will say what cannot be read
                headers.append((self._header(index), known[index]))
        turned = [(stored, boxes) for stored, boxes in headers if stored.orientation != 1]
        if not turned:
            return None
        upright = are_upright(turned)
        told = {
            True: 'their boxes are of the upright images, and are turned back to where the model sees the object',
            False: 'so are their boxes',
            None: 'their boxes fit the upright images as well, and are taken as those of the stored ones; store the '
            'images upright to be sure',
        }
        _logger.info(
            f'--gt-boxes {self.path}: {len(turned)} of {len(headers)} images looked at are photographs that their EXIF '
            f'data turn. The model sees them as they are stored, and {told[upright]}.'
        )
        return upright


def read_boxes(path: str) -> dict[str, list[Box]]:
    """Reads boxes, of any of these formats; an image may have several.

    | format | it is known by | coordinates, all counted from 0 |
    |---|---|---|
    | `image,x0,y0,x1,y1`, with or without that first line | commas | half-open |
    | Tiny-ImageNet's `val_annotations.txt`: image, class, x0, y0, x1, y1 | six columns | last pixel included |
    | CUB-200-2011's `bounding_boxes.txt`: number, x, y, width, height; `images.txt` beside it | five columns | sizes |
    | a folder of ImageNet's XML files, searched with all below it | a folder | last pixel included |

    ImageNet's values run from 0 to the edge less 1, and so do Tiny-ImageNet's; Pascal VOC's files look the same but
    count from 1, so that their boxes would lie a pixel off. CUB's x + width runs to the last pixel, too.

    Args:
        path: File or folder.

    Returns:
        Boxes by the name of the image, as the file has it; with XML by the path in the folder, without its suffix.

    Raises:
        ValueError: There is no such file, or a line of it makes no box.
    """
    if os.path.isdir(path):
        return _collect(_read_xml(Path(path)), path)
    try:
        with open(path, newline='') as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f'--gt-boxes {path} cannot be read ({getattr(error, "strerror", None) or "not a text file"}): name a file '
            'of boxes.'
        ) from error
    if not lines:
        raise ValueError(f'--gt-boxes {path} is empty: name a file of boxes.')
    first = lines[0][1]
    columns = len(first.split())
    if ',' in first:
        return _collect(_read_csv(lines, path), path)
    if columns not in READERS:
        raise ValueError(
            f'--gt-boxes {path}, line 1: {first!r} is neither image,x0,y0,x1,y1 nor a line of Tiny-ImageNet or CUB; '
            'name such a file, or a folder of XML.'
        )
    return _collect(READERS[columns](lines, path), path)


class Entry(NamedTuple):
    """A box as it was read: the image's name, the box, and where it was found, for the user."""

    name: str
    box: Box
    place: str


def _collect(entries: Iterable[Entry], path: str) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for name, box, place in entries:
        if not box[0] < box[2] or not box[1] < box[3] or not all(abs(edge) < 1e6 for edge in box):
            raise ValueError(
                f'--gt-boxes {path}, {place}: {box} is not a box (x0, y0, x1, y1 in pixels): mend or drop it.'
            )
        boxes.setdefault(name, []).append(box)
    if not boxes:
        raise ValueError(f'--gt-boxes {path} holds no boxes: name a file of boxes.')
    return boxes


def _numbers(texts: Sequence[str], place: str, path: str) -> Box:
    try:
        a, b, c, d = map(float, texts)
    except ValueError as error:
        raise ValueError(
            f'--gt-boxes {path}, {place}: {" ".join(texts)!r} must be four numbers, the box in pixels: mend or drop it.'
        ) from error
    return a, b, c, d


def _read_csv(lines: Sequence[tuple[int, str]], path: str) -> Iterator[Entry]:
    for number, line in lines:
        try:
            (row,) = csv.reader([line])
        except (csv.Error, ValueError) as error:
            raise ValueError(
                f'--gt-boxes {path}, line {number}: {first_line(error)}; write image,x0,y0,x1,y1 there.'
            ) from error
        if [entry.strip() for entry in row[1:]] == ['x0', 'y0', 'x1', 'y1']:
            continue
        place = f'line {number}'
        name, *numbers = row
        yield Entry(name, _numbers(numbers, place, path), place)


def _read_tiny_imagenet(lines: Sequence[tuple[int, str]], path: str) -> Iterator[Entry]:
    for number, line in lines:
        place = f'line {number}'
        name, *more = line.split()
        x0, y0, x1, y1 = _numbers(more[1:], place, path)  # behind the class
        yield Entry(name, (x0, y0, x1 + 1, y1 + 1), place)


def _read_cub(lines: Sequence[tuple[int, str]], path: str) -> Iterator[Entry]:
    names_path = os.path.join(os.path.dirname(path), 'images.txt')
    try:
        with open(names_path) as file:
            names = dict(line.split(maxsplit=1) for line in file if line.strip())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--gt-boxes {path} needs CUB's {names_path}, with a number and a name per line: put it there."
        ) from error
    for number, line in lines:
        place = f'line {number}'
        image, *numbers = line.split()
        if image not in names:
            raise ValueError(
                f'--gt-boxes {path}, {place}: {names_path} has no image {image}: the two files must belong to the '
                'same set.'
            )
        x, y, width, height = _numbers(numbers, place, path)
        yield Entry(names[image].strip(), (x, y, x + width, y + height), place)


# Columns of a line without commas.
READERS = {5: _read_cub, 6: _read_tiny_imagenet}


def _read_xml(folder: Path) -> Iterator[Entry]:
    for file in sorted(folder.rglob('*.xml')):
        place = str(file.relative_to(folder))
        try:
            found = [
                [edges.findtext(edge, '') for edge in ('xmin', 'ymin', 'xmax', 'ymax')]
                for edges in xml.etree.ElementTree.parse(file).iter('bndbox')
            ]
        except (OSError, xml.etree.ElementTree.ParseError) as error:
            raise ValueError(
                f'--gt-boxes {folder}, {place} cannot be read as XML ({error}); mend or remove it.'
            ) from error
        for texts in found:
            x0, y0, x1, y1 = _numbers(texts, place, str(folder))
            yield Entry(file.relative_to(folder).with_suffix('').as_posix(), (x0, y0, x1 + 1, y1 + 1), place)


def match(boxes: dict[str, list[Box]], filenames: Sequence[str], path: str) -> tuple[dict[int, list[Box]], list[str]]:
    """Finds the images that names stand for.

    A name, with or without its suffix, stands for the image whose file is called so in folders that are called so, as
    far as name and file tell them; else for the only one whose file is called so.

    Args:
        boxes: Boxes by name.
        filenames: Paths of all images.
        path: Where the boxes are from, for the sentence.

    Returns:
        Boxes by number of the image, and the names that no image has.

    Raises:
        ValueError: A name stands for several images, or several names for one image.
    """
    paths = [PurePath(filename) for filename in filenames]
    called: dict[str, list[int]] = {}
    for index, image in enumerate(paths):
        for name in {image.name, image.stem}:
            called.setdefault(name, []).append(index)
    parts = {name: PurePath(name).parts or ('',) for name in boxes}
    by_path = {
        name: [index for index in called.get(parts[name][-1], []) if _folders_agree(paths[index].parts, parts[name])]
        for name in boxes
    }
    sure = {index for found in by_path.values() for index in found}
    names: dict[int, str] = {}
    missing = []
    for name, found in by_path.items():
        if not found:
            found = called.get(parts[name][-1], [])
            if len(found) != 1 or found[0] in sure:
                missing.append(name)
                continue
        if len(found) > 1:
            raise ValueError(
                f'--gt-boxes {path}: {name} may be {filenames[found[0]]} or {filenames[found[1]]}: name images by '
                'their paths.'
            )
        (index,) = found
        if index in names:
            raise ValueError(
                f'--gt-boxes {path}: {names[index]} and {name} may both be {filenames[index]}: name images by their '
                'paths.'
            )
        names[index] = name
    return {index: boxes[name] for index, name in names.items()}, missing


def _folders_agree(path: tuple[str, ...], name: tuple[str, ...]) -> bool:
    """Whether the folders of two paths are the same from the innermost on, as far as both tell them."""
    return all(one == other for one, other in zip(path[-2::-1], name[-2::-1]))
