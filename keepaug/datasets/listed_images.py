"""Images that a data set's own files list with their classes, read from where its archive was unpacked."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from timm.data.readers.reader import Reader


class ListedImages(Reader):
    """Image files with their class, as timm's `ImageDataset` reads them.

    Attributes:
        root: Folder of the data set.
        samples: Path and class index of each image.
        class_to_idx: Class index by name.
        boxes_file: Where the boxes around the objects are listed; empty where they are not.
    """

    def __init__(
        self,
        root: Path,
        samples: Sequence[tuple[Path, int]],
        class_to_idx: dict[str, int],
        boxes_file: Path | None = None,
    ):
        """See the attributes."""
        super().__init__()
        self.root = str(root)
        self.samples = [(str(path), index) for path, index in samples]
        self.class_to_idx = class_to_idx
        self.boxes_file = '' if boxes_file is None else str(boxes_file)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, target = self.samples[index]
        return open(path, 'rb'), target

    def __len__(self) -> int:
        return len(self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = self.samples[index][0]
        if basename:
            return os.path.basename(path)
        return path if absolute else os.path.relpath(path, self.root)


def find_unpacked(root: str, folder: str, landmark: str) -> Path:
    """Where the archive of a data set was unpacked.

    Args:
        root: The folder that the archive holds, or the one it was unpacked into.
        folder: Name of the folder that the archive holds.
        landmark: A file that lies in it.

    Raises:
        ValueError: The file is in neither.
    """
    for place in (Path(root), Path(root, folder)):
        if (place / landmark).is_file():
            return place
    raise ValueError(f'{root} has no {landmark}: it must be the folder {folder} as its archive holds it.')


def read_rows(path: Path, columns: int, separator: str | None = None) -> list[list[str]]:
    """The lines of a text file, each in columns.

    Args:
        path: The file.
        columns: Columns of every line.
        separator: What stands between columns; any white space if None.

    Raises:
        ValueError: There is no such file, it is empty, or a line has other columns.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f'{path} is needed by the data set but cannot be read '
            f'({getattr(error, "strerror", None) or "not a text file"}).'
        ) from error
    rows = {number: line.split(separator) for number, line in enumerate(lines, start=1) if line.strip()}
    if not rows:
        raise ValueError(f'{path} is empty, but the data set needs it.')
    for number, row in rows.items():
        if len(row) != columns:
            raise ValueError(
                f'{path}, line {number}: {" ".join(row)!r} does not have the {columns} columns of such a file.'
            )
    return list(rows.values())


def check_listed(folder: Path, names: Iterable[str], list_file: Path) -> None:
    """Compares the images that a file lists with those that are there.

    Args:
        folder: Where the images lie.
        names: Their names, below `folder`.
        list_file: Who lists them, for the sentence.

    Raises:
        ValueError: One is missing.
    """
    by_folder: dict[str, set[str]] = {}
    for name in names:
        place, _, base = name.rpartition('/')
        by_folder.setdefault(place, set()).add(base)
    for place, listed in by_folder.items():
        missing = listed - set(list_images(folder / place))
        if missing:
            others = f' and {len(missing) - 1} more in its folder are' if len(missing) > 1 else ' is'
            raise ValueError(
                f'{folder / place / min(missing)}{others} missing, though {list_file} lists '
                f'{"them" if len(missing) > 1 else "it"}: unpack the archive again.'
            )


def list_images(folder: Path) -> list[str]:
    """Names of the files in a folder, sorted; empty where there is no such folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []
