"""Attentive CutMix: the patches a network attends to most move into another image (Walawalkar et al., 2020)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug.augment.base import check_edge
from keepaug.augment.label_mixing import PartnerMixer, may_be_any
from keepaug.augment.registry import register_augment
from keepaug.functional import attention_grid, top_patches_mask
from keepaug.functional.attention import attention_map
from keepaug.models.resolution import MISFIT
from keepaug.ranges import CELLS, HyperParameterError, Range

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@register_augment('attentive-cutmix')
class AttentiveCutMix(PartnerMixer):
    """Every image receives its partner's best patches, at their place; its own label keeps its share of the pixels.

    Section 3.1 of the paper, with lambda the weight of the receiving image's label: 43 / 49 for 6 of 49 patches where
    the grid divides the image. The paper mixes every image; `prob` is 1 unless given.

    Args:
        model: Bare model in training, which teaches itself where no teacher is given.
        num_classes: Number of classes K.
        patches: Patches N that move.
        teacher: A timm model that attends, with any classes or none. It runs in eval mode without gradients and is left
            unchanged; None for `model`.
        grid: Patches along each edge of the image.
        teacher_size: (H, W) the images are resized to for the teacher; None leaves them as they are.
        normalisation: (mean, std) of the data, each per channel.
        teacher_normalisation: (mean, std) the teacher expects, if not the data's.
        **mixing: What `PartnerMixer` takes.

    `last`: `partner`, `lam`, `mask` bool (B, 1, H, W) True where the partner's pixels are, and `grid` float32
    (B, g, g): the attention to the partner, whose best cells are the mask; None where nothing was mixed.

    Raises:
        ValueError: A value is out of range, or there is neither teacher nor model.
    """

    ranges = PartnerMixer.ranges | {'grid': CELLS}

    def __init__(
        self,
        model: nn.Module | None = None,
        num_classes: int | None = None,
        patches: int = 6,
        teacher: nn.Module | None = None,
        grid: int = 7,
        teacher_size: tuple[int, int] | None = None,
        normalisation: Normalisation | None = None,
        teacher_normalisation: Normalisation | None = None,
        **mixing: Any,
    ):
        super().__init__(model, num_classes, **mixing)
        teacher = model if teacher is None else teacher
        if teacher is None:
            raise ValueError('Attention needs a network: give teacher=, or model= for the model to teach itself.')
        self.grid = self.check('grid', grid)
        self.patches = Range(least=1, most=grid**2, whole=True, unit='cell').check('patches', patches)
        if (normalisation is None) != (teacher_normalisation is None):
            raise ValueError('normalisation and teacher_normalisation must be given together, or both left out.')
        self.teacher = teacher
        self.teacher_size = None if teacher_size is None else tuple(teacher_size)
        self.rescaling = None
        if normalisation is not None and normalisation != teacher_normalisation:
            both = torch.tensor([normalisation, teacher_normalisation], dtype=torch.float32)[..., None, None]
            (mean, std), (teacher_mean, teacher_std) = both
            self.rescaling = std / teacher_std, (mean - teacher_mean) / teacher_std

    def describe(self, size: tuple[int, int]) -> str:
        teacher = 'the model itself' if self.teacher is self.model else type(self.teacher).__name__
        return f'{self.patches} patches of {self.grid} x {self.grid}, attention of {teacher}, {super().describe(size)}'

    def check_images(self, x: Tensor) -> None:
        check_edge('grid', self.grid, x)
        size = ' x '.join(map(str, self.teacher_size or x.shape[-2:]))
        name = type(self.teacher).__name__
        try:
            shape = tuple(attention_map(self.teacher, self._as_teacher_sees(x)).shape[1:])
        except MISFIT as error:
            raise HyperParameterError(
                'teacher_size', f'must be a size that the teacher {name} can run at, such as its own', size
            ) from error
        if max(shape) < 2:
            raise HyperParameterError(
                'teacher_size',
                f'must be larger, or choose another teacher: {name} sees such images as a single cell, so no patch '
                'stands out',
                size,
            )

    def mix(
        self,
        x: Tensor,
        target: Tensor,
        partner: Tensor,
        group: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        size = x.shape[-2:]
        applied = self.flip_coin(self.applied_share(), group, generator)
        if not may_be_any(applied):
            self.last = {'mask': torch.zeros(len(x), 1, *size, dtype=torch.bool, device=x.device), 'grid': None}
            return x, torch.ones(len(x), dtype=torch.float64, device=x.device)
        attention = attention_grid(self.teacher, self._as_teacher_sees(x), self.grid)[partner]
        mask = top_patches_mask(attention, self.patches, size)
        mask = mask & applied.to(x.device, non_blocking=True)[:, None, None, None]
        self.last = {'mask': mask, 'grid': attention}
        lam = 1 - mask.sum((1, 2, 3)).double() / (size[0] * size[1])
        return torch.where(~mask, x, x[partner]), lam

    def _as_teacher_sees(self, x: Tensor) -> Tensor:
        """The images in the teacher's normalisation and size."""
        seen = x.detach()
        if self.rescaling is not None:
            self.rescaling = scale, shift = tuple(values.to(x.device) for values in self.rescaling)
            seen = seen * scale + shift
        if self.teacher_size not in (None, tuple(x.shape[-2:])):
            # In float32: the kernel knows no half precision on CPU.
            seen = F.interpolate(
                seen.float(), size=self.teacher_size, mode='bicubic', antialias=True, align_corners=False
            )
        return seen.to(x.dtype)
