"""TensorBoard as a sink of the record."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keepaug.console.errors import first_line
from keepaug.files.drafts import unwritable


class TensorBoard:
    """Writes each epoch's numbers and pictures to the run's folder, for `tensorboard --logdir`.

    Args:
        folder: Folder of the run.
        start_epoch: Epoch the run starts with; what the folder holds of it and of later ones is no longer shown.
    """

    def __init__(self, folder: str, start_epoch: int = 0):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.writer = SummaryWriter(folder, purge_step=start_epoch)

    def write(
        self,
        row: Mapping[str, Any],
        scalars: Mapping[str, float],
        pictures: Mapping[str, np.ndarray],
    ) -> None:
        """Writes the numbers of an epoch's row, those beside it and the pictures, uint8 (H, W, 3).

        Raises:
            OSError: The folder cannot be written.
        """
        epoch = row['epoch']
        numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != 'epoch'}
        try:
            for name, value in {**numbers, **scalars}.items():
                self.writer.add_scalar(name, value, epoch)
            for name, picture in pictures.items():
                self.writer.add_image(name, picture, epoch, dataformats='HWC')
            self.writer.flush()
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise unwritable(f'The TensorBoard log in {self.folder}', self.folder, reason) from error
