"""Random numbers that belong to an image, whatever batch and process it comes in."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keepaug.measuring.replay import mix_seed


def uniform_per_image(numbers: Sequence[int], *shape: int, seed: int, device: torch.device | None = None) -> Tensor:
    """Numbers in [0, 1), the same for the same image and seed.

    Args:
        numbers: The images' numbers in their data set (B).
        *shape: What is drawn for each.
        seed: Seed of the evaluation.
        device: Device of the result.

    Returns:
        float64 (B, *shape).
    """
    generator = torch.Generator()
    rows = []
    for number in numbers:
        generator.manual_seed(mix_seed(seed, number))
        rows.append(torch.rand(shape, dtype=torch.float64, generator=generator))
    return torch.stack(rows).to(device)
