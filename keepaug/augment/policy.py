"""The policy alone, where batches hold images before and after it."""

import torch
from torch import Tensor

from keepaug.augment.base import BatchAugment
from keepaug.augment.keep_paste import split_pairs


class Policy(BatchAugment):
    """Takes pairs, 2B rows, the B images before the policy first, and gives those after it; switched off, the others.

    `KeepPaste` that pastes nothing. `last`: `mask` bool (B, 1, H, W), False everywhere: no place is put back.
    """

    rows_per_sample = 2

    def describe(self, size: tuple[int, int]) -> str:
        return ''  # the loader's transform tells of its policy

    def bypass(self, x: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        clean, _, target = split_pairs(x, target)
        return clean, target

    def augment(
        self, x: Tensor, target: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        _, augmented, target = split_pairs(x, target)
        self.last = {'mask': augmented.new_zeros(len(augmented), 1, *augmented.shape[-2:], dtype=torch.bool)}
        return augmented, target
