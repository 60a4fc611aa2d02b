"""A classifier after the first stage of a model, trained along with the last one.

KeepAugment, section 3.1, "early head based approximation": average pooling and a linear layer after the first block,
with an auxiliary loss as in the Inception network. Its logit explains an image at the price of the first layers alone.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

# Where no module is named, the early head follows the first stage that reduces the image at least this much: in most
# models the stem is at 2 and the first stage at 4.
FIRST_STAGE_REDUCTION = 4
# In models of one resolution it follows this share of the blocks instead, as the first of four stages would.
ISOTROPIC_DEPTH = 1 / 4
EARLY_WEIGHT = 0.3  # Inception's


class EarlyExit(nn.Module):
    """A timm model with an early head.

    `state_dict` holds the model under `backbone.` and the head under `head.`; that of `backbone` stays the plain
    model's. In training mode the output is `(logits, early logits)`, in eval mode the logits.

    Args:
        backbone: Any timm model with `feature_info` and `forward_intermediates`.
        weight: Weight of the early head's loss beside the main one (the paper cites Inception's 0.3).
        stage: Module after which the head stands, by its name or number in `feature_info`; None for what the model
            says in `early_exit_stage`, else the first stage of reduction 4 or more, else block ceil(depth / 4).

    Raises:
        ValueError: The model has no stages, or none of this name, or `weight` is negative.
    """

    def __init__(self, backbone: nn.Module, weight: float = EARLY_WEIGHT, stage: str | int | None = None):
        super().__init__()
        if weight < 0:
            raise ValueError(f'weight of the early loss must be at least 0, got {weight}.')
        self.weight = weight
        self.stage = find_stage(backbone, stage)
        self.backbone = backbone
        like = next(backbone.parameters())
        channels = stage_info(backbone)[self.stage]['num_chs']
        self.head = nn.Linear(channels, backbone.num_classes, device=like.device, dtype=like.dtype)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of images (B, C, H, W): (B, K), in training mode with the early ones (B, K)."""
        if not self.training:
            return self.backbone(x)
        features, (early,) = self.backbone.forward_intermediates(
            x, indices=[self.stage], stop_early=False, output_fmt='NCHW'
        )
        return self.backbone.forward_head(features), self.head(early.mean((2, 3)))

    def early_classifier(self) -> 'EarlyClassifier':
        """The layers before the head, and the head, as a model of its own on the same parameters."""
        return EarlyClassifier(self.backbone, self.head, self.stage)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        names: set[str] = getattr(self.backbone, 'no_weight_decay', set)()
        return {f'backbone.{name}' for name in names}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any] | Callable[[str], int]:
        """The backbone's layers, for layer-wise learning rates; the head counts to the last one, as classifiers do."""
        if not hasattr(self.backbone, 'group_matcher'):
            return {}
        layers = group_parameters(self.backbone, self.backbone.group_matcher(coarse=coarse), reverse=True)
        last = max(layers.values(), default=0)
        return lambda name: layers.get(name.removeprefix('backbone.'), last)


def backbone_of(model: nn.Module) -> nn.Module:
    """The model without an early head, where it has one."""
    return model.backbone if isinstance(model, EarlyExit) else model


class EarlyClassifier(nn.Module):
    """Images to early logits; only the layers before the early head are run.

    Args:
        backbone: The model.
        head: Linear layer on the pooled features of the stage.
        stage: Number of the stage in `feature_info`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, stage: int):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.stage = stage
        self.num_classes = backbone.num_classes

    @property
    def place(self) -> str:
        """Name of the module that the head follows."""
        return stage_info(self.backbone)[self.stage]['module']

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) that the early head pools."""
        (early,) = self.backbone.forward_intermediates(
            x, indices=[self.stage], stop_early=True, intermediates_only=True, output_fmt='NCHW'
        )
        return early

    def forward_head(self, x: Tensor) -> Tensor:
        """Early logits (B, K) of those maps."""
        return self.head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """Early logits (B, K) of images (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))


def stage_info(model: nn.Module) -> list[dict[str, Any]]:
    """timm's `feature_info` as a list; empty where a model has none.

    Each entry holds `module`, `num_chs` and `reduction` of a stage's output.
    """
    info = getattr(model, 'feature_info', None) or []
    return list(getattr(info, 'info', info))


def find_stage(model: nn.Module, stage: str | int | None = None) -> int:
    """Number, in `feature_info`, of the stage that the early head follows.

    Args:
        model: Any timm model.
        stage: Name of a module in `feature_info` or its number; None to choose by the rules of `EarlyExit`.

    Raises:
        ValueError: The model has no stages, or not the one asked for.
    """
    info = stage_info(model)
    name = type(model).__name__
    if not info or not hasattr(model, 'forward_intermediates') or not hasattr(model, 'forward_head'):
        raise ValueError(f'An early exit needs the stages of a timm model, but {name} names none.')
    modules = [entry['module'] for entry in info]
    stage = getattr(model, 'early_exit_stage', None) if stage is None else stage
    if stage is not None:
        if str(stage) in modules:
            return modules.index(str(stage))
        if str(stage).isdecimal() and int(stage) < len(info):
            return int(stage)
        raise ValueError(
            f'stage {stage} is not a stage of {name}: choose {", ".join(modules)} or a number from 0 to '
            f'{len(info) - 1}.'
        )
    reductions = [entry['reduction'] for entry in info]
    if len(set(reductions)) == 1:
        return math.ceil(ISOTROPIC_DEPTH * len(info)) - 1
    return next((i for i, reduction in enumerate(reductions) if reduction >= FIRST_STAGE_REDUCTION), 0)
