"""The classifier under evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from keepaug.training.forward import Forward
from keepaug.validation.processes import gather_rows


@dataclass(frozen=True)
class Subject:
    """A classifier as evaluations see it: in eval mode, from images to logits of the compared classes.

    Attributes:
        name: Its name in legends.
        model: The model in whatever wrapping (compiled, scripted, split over GPUs).
        bare: The timm model under it, for features and the gradients of layers.
        mean: Mean (1, C, 1, 1) of pixels in [0, 1], on the device.
        std: Standard deviation (1, C, 1, 1) likewise.
        forward: How images reach the model.
        classes: Columns of the model's logits that are compared, in the order of the targets; None for all.
        names: Names of the compared classes, or None.
        seed: All draws of an evaluation follow from it.
        rank: This process.
        world_size: Processes that share the images.
    """

    name: str
    model: nn.Module
    bare: nn.Module
    mean: Tensor
    std: Tensor
    forward: Forward = Forward()
    classes: Sequence[int] | None = None
    names: Sequence[str] | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def num_classes(self) -> int:
        """How many classes are compared."""
        return self.bare.num_classes if self.classes is None else len(self.classes)

    def name_class(self, number: int) -> str:
        """The name of a compared class, its number where it has none."""
        return str(number) if self.names is None else self.names[number]

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the compared classes.

        Args:
            x: Images (B, C, H, W), normalised.

        Returns:
            float32 (B, K); a gradient flows back to `x` unless the caller forbids it.
        """
        output = self.forward(self.model, x)
        return (output if self.classes is None else output[:, self.classes]).float()

    def to_pixels(self, x: Tensor) -> Tensor:
        """Normalised images as float32 pixels in [0, 1]."""
        return x.float() * self.std + self.mean

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] as the model wants them, in float32."""
        return (pixels - self.mean) / self.std

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over processes; every process calls it and gets it."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value := value.clone())
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes one after the other, on the CPU; every process calls it and gets them."""
        return gather_rows(rows)
