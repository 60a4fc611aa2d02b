"""How a batch reaches a model: device, number format and memory layout, alike in every pass of a run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

# Images (B, C, H, W), or NaFlex's patches with their coordinates.
Input = TypeVar('Input', Tensor, dict[str, Any])


@dataclass(frozen=True)
class Forward:
    """A forward pass as the run makes it.

    Attributes:
        device: Device of model and batches.
        dtype: Format of images, and of weights.
        amp_dtype: Format that autocast computes in; None for no autocast.
        channels_last: Memory layout of weights and images.
    """

    device: torch.device = torch.device('cpu')
    dtype: torch.dtype = torch.float32
    amp_dtype: torch.dtype | None = None
    channels_last: bool = False

    def __call__(self, model: Callable[..., Tensor | tuple], input: Input, *others: Tensor) -> Tensor:
        """What a model answers; of several outputs the first.

        Args:
            model: Model, or any function that runs one.
            input: Images or patches, on any device and in any format.
            *others: What the function takes besides.
        """
        with self.autocast():
            output = model(self.place(input), *others)
        return output[0] if isinstance(output, (tuple, list)) else output

    def autocast(self) -> AbstractContextManager:
        """The context in which forward pass and loss run."""
        return nullcontext() if self.amp_dtype is None else torch.autocast(self.device.type, dtype=self.amp_dtype)

    def place(self, input: Input) -> Input:
        """Images or patches on the device, in format and layout; themselves where they are so already."""
        input = self._move(input)
        if self.channels_last and isinstance(input, Tensor):  # patches have no height and width
            input = input.contiguous(memory_format=torch.channels_last)
        return input

    def place_batch(self, input: Input, target: Tensor) -> tuple[Input, Tensor]:
        """A batch of any loader on the device; the prefetcher's are there already."""
        return self.place(input), target.to(self.device, non_blocking=True)

    def place_model(self, model: nn.Module) -> None:
        """Moves a model to the device, in format and layout."""
        model.to(device=self.device, dtype=self.dtype)
        if self.channels_last:
            model.to(memory_format=torch.channels_last)

    def _move(self, input: Any) -> Any:
        """What comes with patches keeps its format, and lengths stay numbers."""
        if isinstance(input, dict):
            return {name: self._move(value) for name, value in input.items()}
        if not isinstance(input, Tensor):
            return input
        dtype = self.dtype if input.is_floating_point() else input.dtype
        return input.to(device=self.device, dtype=dtype, non_blocking=True)
