"""A study on a small machine: epochs and data shrunk in proportion."""

import argparse
import contextlib
import os
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from timm.data.readers.img_extensions import get_img_extensions

from keepaug.data.folders import find_split
from keepaug.methods.method import spell
from keepaug.ranges import any_of

# Options that count or name epochs, of which shares (0.2 of the epochs) stay what they are.
EPOCHS = (
    'epochs',
    'warmup_epochs',
    'cooldown_epochs',
    'decay_epochs',
    'decay_milestones',
    'patience_epochs',
    'refine_epochs',
    'refine_fade',
    'mixup_off_epoch',
    'start_epoch',
    'stop_epoch',
    'save_epochs',
    'val_interval',
)
# Those of them that have a default and no effect but with one schedule.
OF_SCHEDULE = {'decay_milestones': 'multistep', 'patience_epochs': 'plateau'}


def scaled_flags(args: argparse.Namespace, scale: float) -> list[str]:
    """Flags that shrink the epochs of a run, whatever is counted in them, and the samples of an embedded data set.

    Args:
        args: Options of the whole run, as parsed.
        scale: Share that is left, in (0, 1].
    """
    if scale == 1.0:
        return []
    flags = []

    def shrink(count: float) -> int:
        return max(1, round(count * scale))

    for name in EPOCHS:
        value = vars(args)[name]
        if not value or OF_SCHEDULE.get(name, args.sched) != args.sched:
            continue
        if isinstance(value, list):
            flags += [spell(name), *map(str, sorted({*map(shrink, value)}))]
        elif value >= 1:
            flags += [spell(name), str(shrink(value))]
    if args.lr_stable_timescale:  # a span of time, which may be shorter than an epoch
        flags += ['--lr-stable-timescale', f'{args.lr_stable_timescale * scale:g}']
    for name in ('train_num_samples', 'val_num_samples'):
        value = vars(args)[name]
        if value:
            flags += [spell(name), str(shrink(value))]
    return flags


@dataclass(frozen=True)
class DataShare:
    """The share of an image folder that the runs of a study read: of each class some images, the same for every run.

    Attributes:
        source: Folder with splits, each with a folder per class.
        folder: Folder of links to the images that are left.
        scale: Share that is left, in (0, 1]; every class keeps one image at least.
        per_class: Images of each class that the share is taken of, by split, under any name that timm finds it by; a
            split that is not named keeps all.
    """

    source: str
    folder: Path
    scale: float = 1.0
    per_class: Mapping[str, int] = field(default_factory=dict)

    def make(self) -> None:
        """Makes the folder of links, where it is not complete yet.

        Raises:
            ValueError: It holds other images, or `source` has another layout or not the splits of `per_class`.
        """
        if not self._made_of():
            self._link()
            self._mark.write_text(os.path.realpath(self.source))
        self.check()

    def check(self) -> None:
        """Refuses a folder that is complete with other images than those that are wanted now.

        Raises:
            ValueError: As `make` says.
        """
        made_of, origin = self._made_of(), os.path.realpath(self.source)
        if not made_of:
            return
        if made_of != origin:
            raise ValueError(f'{self.folder} holds images of {made_of}, not of {origin}: give another --output.')
        others = {*self.folder.glob('*/*/*')} ^ self._links.keys()
        if others:
            held, wanted = _describe(_list_images(self.folder)), self.describe()
            raise ValueError(
                f'{self.folder} holds {held or "no images"}, not {wanted} (images/classes), and differs in '
                f'{min(others).relative_to(self.folder)}: give another --output.'
            )

    def describe(self) -> str:
        """Images and classes of each split in a few words, whether the folder is made or not.

        Raises:
            ValueError: As `make` says of `source`.
        """
        return _describe(self._chosen)

    @property
    def _mark(self) -> Path:
        """A file that stands in a complete folder and names its source."""
        return self.folder / '.complete'

    def _made_of(self) -> str:
        """The source of a complete folder; empty of any other, and while or where the mark was only begun."""
        return self._mark.read_text() if self._mark.exists() else ''

    def _link(self) -> None:
        """Makes the links, and takes away those that an attempt at other images left.

        Any number of runs that start beside each other may do so.
        """
        wanted = self._links
        folders = {link.parent for link in wanted}
        for link in self.folder.glob('*/*/*'):
            if link.is_symlink() and not (link in wanted and link.resolve() == wanted[link].resolve()):
                link.unlink(missing_ok=True)
        strange = {*self.folder.glob('*'), *self.folder.glob('*/*')} - folders - {folder.parent for folder in folders}
        for folder in sorted(strange, reverse=True):  # a folder comes after those in it
            with contextlib.suppress(OSError):  # it is none, or not empty
                folder.rmdir()
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for link, path in wanted.items():
            with contextlib.suppress(FileExistsError):  # made before, or by another run
                link.symlink_to(path)

    @property
    def _links(self) -> Mapping[Path, Path]:
        """The links of a complete folder, and where they lead."""
        return {
            self.folder / split / name / path.name: path.absolute()
            for split, classes in self._chosen.items()
            for name, files in classes.items()
            for path in files
        }

    @cached_property
    def _chosen(self) -> Mapping[str, Mapping[str, list[Path]]]:
        """The images that are left, by split and class.

        Raises:
            ValueError: As `make` says of `source`.
        """
        found = _list_images(self.source)
        if not found:
            raise ValueError(
                f'--scale and images_per_class take some images of each class, but {self.source} has no split folders '
                'with class folders: give such a folder, or leave them out.'
            )
        most = self._most(found)

        def choose(split: str, name: str, files: Sequence[Path]) -> list[Path]:
            left = max(1, round(min(len(files), most.get(split, len(files))) * self.scale))
            return random.Random(f'0 {split} {name}').sample(files, left)

        return {
            split: {name: choose(split, name, files) for name, files in classes.items()}
            for split, classes in found.items()
        }

    def _most(self, splits: Collection[str]) -> Mapping[str, int]:
        """`per_class` by the names of folders, of which timm knows some by several.

        Raises:
            ValueError: A split is not there, or named twice.
        """
        most: dict[str, int] = {}
        for split, count in self.per_class.items():
            name = os.path.basename(find_split(self.source, split) or '')
            if name not in splits:
                raise ValueError(
                    f'images_per_class names the split {split}, of which {self.source} has no images: name '
                    f'{any_of(splits)}.'
                )
            if name in most:
                raise ValueError(
                    f'images_per_class names the split {name} of {self.source} twice, as {split} too: leave one out.'
                )
            most[name] = count
        return most


def _describe(images: Mapping[str, Mapping[str, Sequence[Path]]]) -> str:
    return ' '.join(f'{split}:{sum(map(len, classes.values()))}/{len(classes)}' for split, classes in images.items())


def _list_images(source: str | Path) -> Mapping[str, Mapping[str, list[Path]]]:
    """Images by split and class; empty where the folder has another layout, or is none."""
    extensions, found = tuple(get_img_extensions()), {}
    splits = [entry.name for entry in os.scandir(source) if entry.is_dir()] if os.path.isdir(source) else []
    for split in sorted(splits):
        folders = [folder for folder in sorted((Path(source) / split).iterdir()) if folder.is_dir()]
        classes = {
            folder.name: sorted(path for path in folder.iterdir() if path.name.lower().endswith(extensions))
            for folder in folders
        }
        found[split] = {name: files for name, files in classes.items() if files}
    return {split: classes for split, classes in found.items() if classes}
