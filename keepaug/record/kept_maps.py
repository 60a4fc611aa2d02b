"""The maps of recycled saliency in a file beside the checkpoints, which `--exact-resume` goes on from."""

import glob
import os

import torch
from timm.task import TrainingTask

from keepaug.augment.recycled import SaliencyMaps
from keepaug.files.checkpoints import LAST, read_file
from keepaug.files.drafts import whole_file
from keepaug.training.recycling import RecyclingTask

NAME = 'saliency-maps-{}.pt'


class NoMaps:
    """A run that has no maps to keep."""

    name = ''

    def write(self, folder: str, epoch: int) -> None:
        pass

    def remove_older(self, folder: str) -> None:
        pass

    def read(self, folder: str, name: str) -> None:
        pass


class KeptMaps(NoMaps):
    """Keeps a run's maps: written before the checkpoint that names them, and the older ones removed after it.

    Args:
        maps: The maps.

    Attributes:
        name: The file that the next checkpoint is to name, without its folder.
    """

    def __init__(self, maps: SaliencyMaps):
        self.maps = maps

    def write(self, folder: str, epoch: int) -> None:
        """Writes the maps as they are at the end of an epoch, whole and onto the disk.

        Raises:
            OSError: The file cannot be written.
        """
        name = NAME.format(epoch)
        with whole_file(os.path.join(folder, name)) as draft, open(draft, 'wb') as file:
            torch.save({'levels': self.maps.levels, 'scales': self.maps.scales}, file)
            file.flush()
            os.fsync(file.fileno())
        self.name = name

    def remove_older(self, folder: str) -> None:
        for path in glob.glob(os.path.join(glob.escape(folder), NAME.format('*'))):
            if self.name and os.path.basename(path) != self.name:
                os.unlink(path)

    def read(self, folder: str, name: str) -> None:
        """Takes over the maps that a checkpoint of the folder names.

        Raises:
            ValueError: The file is gone, or of another run.
        """
        path = maps_path(folder, name)
        held = read_file(path, '--resume')
        for part in ('levels', 'scales'):
            own, kept = getattr(self.maps, part), held.get(part)
            if not isinstance(kept, torch.Tensor) or (kept.shape, kept.dtype) != (own.shape, own.dtype):
                raise ValueError(
                    f'{path} holds the saliency maps of another run: drop --exact-resume to begin without them.'
                )
            own.copy_(kept)
        self.name = name


def maps_path(folder: str, name: str) -> str:
    """The file that a checkpoint names.

    Raises:
        ValueError: It is gone, or the name leads elsewhere.
    """
    path = os.path.join(folder, name)
    if os.path.basename(name) != name or not os.path.isfile(path):
        raise ValueError(
            f'{path}, which --exact-resume needs, is missing, since it is kept only beside {LAST}: resume from that, '
            'or drop --exact-resume.'
        )
    return path


def find_maps(task: TrainingTask) -> NoMaps:
    """What keeps the maps of a task."""
    return KeptMaps(task.maps) if isinstance(task, RecyclingTask) else NoMaps()
