"""Training that writes down what its own backward pass tells of saliency, for the next visit of each image."""

import logging

import torch
from timm.task import TrainingTask
from torch import Tensor
from torch.utils.data import Dataset

from keepaug.augment import Compose
from keepaug.augment.recycled import SaliencyMaps
from keepaug.console.processes import is_first_process, process_count, process_rank
from keepaug.data.places import count_images, split_target
from keepaug.training.augmented_task import AugmentedTask

_logger = logging.getLogger('train')

MIB = 2**20
EXCHANGED = 2**16  # images whose maps go from process to process at a time


class RecyclingTask(AugmentedTask):
    """An augmented task whose targets come joined with the places of the crops (`keepaug.data.places`).

    They are taken apart before anything else sees them. The augmented batch goes to the inner task detached, and its
    gradient into the maps, as long as the augmentation that reads them is on.

    Args:
        task: The task.
        augment: The augmentations, one of which is guided by maps.
        copies: Rows of a batch that come from one sample.
        dense: Whether labels are of several classes.
    """

    def __init__(self, task: TrainingTask, augment: Compose, copies: int = 1, dense: bool = False):
        super().__init__(task, augment)
        self.copies = copies
        self.dense = dense

    @property
    def maps(self) -> SaliencyMaps:
        return next(each.recycled for each in self.augment.augments if each.recycled is not None)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        if not self.training:
            return self.task(input, target)
        target, where = split_target(target, self.copies, self.dense)
        if self.watched:
            self.received, self.where = (input, target), where
        input, target = self.augment(input, target, where=where)
        recycling = self.augment.recycling
        if recycling is not None and recycling.active:
            input = self.maps.listen(input, where, self.augment.own_pixels())
        return self.task(input, target)

    def augment_batch(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        target, where = split_target(target, self.copies, self.dense)
        return self.augment(input, target, where=where)


def open_maps(task: TrainingTask, dataset: Dataset) -> None:
    """Makes room for a map of each training image, and says how much; nothing where saliency is not recycled.

    Args:
        task: Task of the run.
        dataset: Its training set.
    """
    if not isinstance(task, RecyclingTask):
        return
    maps = task.maps
    maps.open(count_images(dataset), task.device)
    if is_first_process():
        size = maps.levels.nbytes + maps.scales.nbytes
        _logger.info(
            f'Saliency is recycled: maps of {maps.cells} x {maps.cells} cells for {len(maps)} images take '
            f'{size / MIB:.3g} MiB in each process. An image without a map is cut blindly.'
        )


def exchange_maps(task: TrainingTask) -> None:
    """Lets all processes know what each has seen in an epoch; where several saw an image, the lowest rank's map counts.

    Every process calls this at the end of an epoch.
    """
    if not isinstance(task, RecyclingTask):
        return
    maps = task.maps
    if process_count() > 1:
        for start in range(0, len(maps), EXCHANGED):
            part = slice(start, start + EXCHANGED)
            _exchange(maps.levels[part], maps.scales[part], maps.written[part])
    maps.written.zero_()


def _exchange(levels: Tensor, scales: Tensor, written: Tensor) -> None:
    owner = torch.where(written, process_rank(), process_count())
    torch.distributed.all_reduce(owner, torch.distributed.ReduceOp.MIN)
    mine, seen = owner == process_rank(), owner < process_count()
    for values in (levels, scales):
        shape = (-1, *[1] * (values.ndim - 1))
        told = torch.where(mine.view(shape), values, torch.zeros_like(values))
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)  # all but the owner told 0
        values.copy_(torch.where(seen.view(shape), told, values))
