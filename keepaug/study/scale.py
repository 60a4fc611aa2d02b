"""A study on a small machine: epochs and data shrunk in proportion."""

import argparse
import contextlib
import os
import random
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path

from timm.data.readers.img_extensions import get_img_extensions

from keepaug.methods.method import spell

# Options that count epochs, of which shares (0.2 of the epochs) stay what they are.
COUNTS = (
    'epochs',
    'warmup_epochs',
    'cooldown_epochs',
    'decay_epochs',
    'refine_epochs',
    'refine_fade',
    'mixup_off_epoch',
)


def scaled_flags(args: argparse.Namespace, scale: float) -> list[str]:
    """Flags that shrink the epochs of a run, whatever is counted in them, and the samples of an embedded data set.

    Args:
        args: Options of the whole run, as parsed.
        scale: Share that is left, in (0, 1].
    """
    if scale == 1.0:
        return []
    flags = []
    for name in COUNTS:
        value = vars(args)[name]
        if value and value >= 1:
            flags += [spell(name), _spell(max(1, round(value * scale)))]
    if args.sched == 'multistep':
        milestones = sorted({max(1, round(epoch * scale)) for epoch in args.decay_milestones})
        flags += ['--decay-milestones', *map(str, milestones)]
    for name in ('train_num_samples', 'val_num_samples'):
        value = vars(args)[name]
        if value:
            flags += [spell(name), str(max(1, round(value * scale)))]
    return flags


def _spell(value: float) -> str:
    return f'{value:g}'


@dataclass(frozen=True)
class DataShare:
    """The share of an image folder that the runs of a study read: of each class some images, the same for every run.

    Attributes:
        source: Folder with splits, each with a folder per class.
        folder: Folder of links to the images that are left.
        scale: Share that is left, in (0, 1]; every class keeps one image at least.
        per_class: Images of each class that the share is taken of, by split; a split that is not named keeps all.
    """

    source: str
    folder: Path
    scale: float = 1.0
    per_class: Mapping[str, int] = field(default_factory=dict)

    def make(self) -> None:
        """Makes the folder of links, where it is not complete yet.

        Raises:
            ValueError: It holds a share of another folder, or `source` has another layout.
        """
        done, origin = self.folder / '.complete', os.path.realpath(self.source)
        if done.exists():
            held = done.read_text()
            if held != origin:
                raise ValueError(
                    f'{self.folder} holds images of {held or "another folder"}, not of {origin}: give another --output.'
                )
            return
        for split, classes in _image_folder(self.source).items():
            for name, files in classes.items():
                folder = self.folder / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for path in random.Random(f'0 {split} {name}').sample(files, self._left(split, files)):
                    with contextlib.suppress(FileExistsError):  # made before, or by a run that starts beside this one
                        (folder / path.name).symlink_to(path.absolute())
        done.write_text(origin)

    def describe(self) -> str:
        """Images and classes of each split in a few words, whether the folder is made or not.

        Raises:
            ValueError: `source` has another layout.
        """
        return ' '.join(
            f'{split}:{sum(self._left(split, files) for files in classes.values())}/{len(classes)}'
            for split, classes in _image_folder(self.source).items()
        )

    def _left(self, split: str, files: Sized) -> int:
        """Images of a class that are left."""
        return max(1, round(min(len(files), self.per_class.get(split, len(files))) * self.scale))


def _image_folder(source: str) -> Mapping[str, Mapping[str, list[Path]]]:
    """Images by split and class.

    Raises:
        ValueError: The folder has another layout.
    """
    extensions = tuple(get_img_extensions())
    found = {}
    for split in sorted(entry.name for entry in os.scandir(source) if entry.is_dir()):
        folders = [folder for folder in sorted((Path(source) / split).iterdir()) if folder.is_dir()]
        classes = {
            folder.name: sorted(path for path in folder.iterdir() if path.name.lower().endswith(extensions))
            for folder in folders
        }
        found[split] = {name: files for name, files in classes.items() if files}
    if not any(found.values()):
        raise ValueError(
            f'--scale and images_per_class take some images of each class, but {source} has no split folders with '
            'class folders: give such a folder, or leave them out.'
        )
    return {split: classes for split, classes in found.items() if classes}
