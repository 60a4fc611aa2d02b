"""What an image folder holds, by its listings alone: its splits, and the folders of classes in one of them."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from timm.data.readers.img_extensions import get_img_extensions

# Names under which timm finds a split when another of the same row is asked for.
TRAIN_NAMES = ('train', 'training')
EVAL_NAMES = ('val', 'valid', 'validation', 'eval', 'evaluation')
SPLIT_NAMES = (*TRAIN_NAMES, *EVAL_NAMES, 'test')
# Beyond so many names a sentence only counts.
NAMED = 5


def split_name(split: str) -> str:
    """The name in a split such as `train[:10%]`, of which an image folder knows no parts."""
    return split.partition('[')[0]


def find_split(root: str, split: str) -> str | None:
    """The folder of a split below `root`, by its name or another that timm knows it by; None if there is none."""
    name = split_name(split)
    also = next((names for names in (TRAIN_NAMES, EVAL_NAMES) if name in names), ())
    candidates = [os.path.join(root, candidate) for candidate in (name, *also) if candidate]
    return next(filter(os.path.isdir, candidates), None)


def list_splits(root: str) -> list[str]:
    """Names of the folders below `root` that hold folders, as those of splits do and those of classes do not."""
    with os.scandir(root) as entries:
        folders = [entry for entry in entries if entry.is_dir() and not is_hidden(entry.name)]
    return sorted(entry.name for entry in folders if _holds_folders(entry.path, entry.name in SPLIT_NAMES))


def split_folder(root: str, split: str, flag: str) -> str:
    """The folder to read a split from: its own, or `root` itself where that is a folder of classes without splits.

    Args:
        root: Data folder.
        split: Name of the split; empty for the folder itself.
        flag: The flag that named it, for the sentence.

    Raises:
        ValueError: There is no such split.
    """
    folder = find_split(root, split)
    if folder is not None:
        return folder
    name, splits = split_name(split), list_splits(root)
    if name in ('', *SPLIT_NAMES) and not set(splits) & set(SPLIT_NAMES):
        return root
    if not splits:
        raise ValueError(
            f'{flag} {split} is not in {root}, which has no splits: leave it out to use the folder as it is.'
        )
    without = f", or give {flag} '' to train without it" if flag == '--val-split' else ''
    raise ValueError(
        f'{flag} {split or repr(split)} is not in {root}, which has the split{"s" * (len(splits) > 1)} '
        f'{name_some(splits)}: name one that is there{without}.'
    )


def is_hidden(name: str) -> bool:
    """Whether a folder is one that programs make for themselves, such as `.ipynb_checkpoints`."""
    return name.startswith('.')


def name_some(names: Iterable[str]) -> str:
    """The first few of several names, and how many more there are."""
    names = list(names)
    if len(names) > NAMED + 1:
        return f'{", ".join(names[:NAMED])} and {len(names) - NAMED} more'
    return ' and '.join(filter(None, [', '.join(names[:-1]), *names[-1:]]))


@dataclass(frozen=True)
class Survey:
    """The folders of a split.

    Attributes:
        root: Folder of the split.
        classes: Folders that hold images, relative to `root`, by their own name, which is that of their class.
        inner: Those of them that lie in another one.
        hidden: Hidden folders that hold images.
        loose: Images beside the folders.
        loops: Links to a folder that they lie in themselves.
    """

    root: str
    classes: dict[str, list[str]] = field(default_factory=dict)
    inner: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


def survey_classes(
    root: str,
    listed: Collection[str] | None = None,
    whole: bool = False,
    extensions: Collection[str] | None = None,
) -> Survey:
    """Looks for the folders of classes; no file is opened.

    Args:
        root: Folder of a split.
        listed: Names of the classes, where they are known.
        whole: List all folders to their end. Else a class's folder is left at its first image, whatever lies below.
        extensions: How names of images end; unset: as timm's reader has it.

    Raises:
        ValueError: A folder cannot be listed.
    """
    found = Survey(root)
    extensions = get_img_extensions(as_set=True) if extensions is None else frozenset(extensions)

    def visit(path: str, real: str, linked: tuple[str, ...] = (), hidden: bool = False, in_class: bool = False) -> None:
        name, place = os.path.basename(path), os.path.relpath(path, root)
        brief = not whole and path != root and (listed is None or name in listed)
        images, folders = _list_folder(path, extensions, brief, every=path == root)
        if images and hidden:
            found.hidden.append(place)
        elif images and path == root:
            found.loose.extend(sorted(images))
        elif images:
            found.classes.setdefault(name, []).append(place)
            found.inner.extend([place] if in_class else [])
            in_class = True
        for folder in sorted(folders, key=lambda entry: entry.name):
            target, links = os.path.join(real, folder.name), linked
            if folder.is_symlink():
                target, links = os.path.realpath(folder.path), (*linked, real)
                if any(_lies_in(passed, target) for passed in links):
                    found.loops.append(os.path.relpath(folder.path, root))
                    continue
            visit(folder.path, target, links, hidden or is_hidden(folder.name), in_class)

    visit(root, os.path.realpath(root))
    return found


def _list_folder(
    path: str,
    extensions: Collection[str],
    brief: bool,
    every: bool = False,
) -> tuple[list[str], list[os.DirEntry]]:
    """An image in a folder, or `every` one, by name, and the folders in it; `brief`: only an image, if there is one."""
    images: list[str] = []
    folders: list[os.DirEntry] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry)
                elif (every or not images) and _is_image(entry.name, extensions):
                    images.append(entry.name)
                    if brief:
                        return images, []
    except OSError as error:
        raise ValueError(f'The folder {path} cannot be listed ({error.strerror}): make it readable.') from error
    return images, folders


def _is_image(name: str, extensions: Collection[str]) -> bool:
    return os.path.splitext(name)[1].lower() in extensions


def _holds_folders(path: str, beside_images: bool) -> bool:
    """Whether there are folders in a folder, and, unless they may lie beside such, no images."""
    try:
        images, folders = _list_folder(path, get_img_extensions(as_set=True), brief=not beside_images)
    except ValueError:  # that of another user, which nobody asked for
        return False
    return not (images and not beside_images) and any(not is_hidden(folder.name) for folder in folders)


def _lies_in(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
