"""Where a network looks: its last feature map as a coarse grid, and the best cells of it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug.functional.masks import cells_to_mask
from keepaug.functional.saliency import in_eval_mode, run_detached

# What classes of norm layers are called, in torch and timm: those over the channels of one place, and others.
CHANNEL_NORMS = ('LayerNorm', 'RmsNorm', 'RMSNorm', 'SimpleNorm')
OTHER_NORMS = ('BatchNorm', 'GroupNorm', 'InstanceNorm')


def attention_grid(model: nn.Module, x: Tensor, grid: int = 7) -> Tensor:
    """How strongly a network responds to each cell of a grid over the image (Attentive CutMix, section 3.1).

    Like that of `input_saliency`, the pass is pure: eval mode, no gradient, and everything unchanged afterwards.

    Args:
        model: A model of timm's, of any family.
        x: Images (B, C, H, W), normalised for that model.
        grid: Cells g along each edge. A map of another size is resized.

    Returns:
        float32 (B, g, g), never negative.

    Raises:
        ValueError: The model does not hand out its feature maps.
    """
    attention = attention_map(model, x)
    if attention.shape[1:] != (grid, grid):
        attention = F.interpolate(
            attention[:, None], size=(grid, grid), mode='bilinear', antialias=True, align_corners=False
        )[:, 0]
    return attention


def attention_map(model: nn.Module, x: Tensor) -> Tensor:
    """The map behind `attention_grid` at its own size.

    It is the channel mean of the last feature map where that is an activation's output. Where the model ends in a norm
    over channels, or in tokens, it is the L2 norm over channels of the last map before: layer norm gives every place
    the same mean over channels, which would leave rounding noise.

    Args:
        model: A model of timm's, of any family.
        x: Images (B, C, H, W), normalised for that model.

    Returns:
        float32 (B, h, w), never negative.

    Raises:
        ValueError: The model does not hand out its feature maps.
    """
    if not hasattr(model, 'forward_intermediates'):
        raise ValueError(f"{type(model).__name__} has no forward_intermediates, unlike timm's models.")
    look = _LastMap(model)
    with torch.no_grad(), in_eval_mode(model):
        # Detached, or autocast would keep weights without a gradient for the step that follows. Frozen weights it does
        # not keep.
        trained = any(parameter.requires_grad for parameter in model.parameters())
        return run_detached(look, x) if trained else look(x)


class _LastMap(nn.Module):
    """A model's last feature map (B, h, w), channels summed up."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.normalised = ends_in_channel_norm(model)

    def forward(self, x: Tensor) -> Tensor:
        final, maps = self.model.forward_intermediates(x, indices=1, norm=False, output_fmt='NCHW')
        if self.normalised or final.ndim != 4:
            return torch.linalg.vector_norm(maps[-1].float(), dim=1)
        # Some activations (SiLU, hard swish) dip below zero.
        return final.float().clamp(min=0).mean(1)


def ends_in_channel_norm(model: nn.Module) -> bool:
    """Whether the last norm of a model, in the order of its modules, makes all places alike in their mean or length."""
    names = [type(module).__name__ for module in model.modules()]
    norms = [name for name in names if any(kind in name for kind in CHANNEL_NORMS + OTHER_NORMS)]
    return bool(norms) and any(kind in norms[-1] for kind in CHANNEL_NORMS)


def top_patches_mask(scores: Tensor, n: int, size: Sequence[int]) -> Tensor:
    """Marks the n best cells of a grid in the image (Attentive CutMix, section 3.1).

    Args:
        scores: (B, g, g); a cell whose score is not a number comes last.
        n: Cells to mark, 1 to g x g.
        size: Image (H, W); grid lines lie at `i * H // g` and `i * W // g`.

    Returns:
        bool (B, 1, H, W), True on the n best cells.

    Raises:
        ValueError: The grid has fewer than n cells.
    """
    batch, rows, columns = scores.shape
    if not 1 <= n <= rows * columns:
        raise ValueError(f'A grid of {rows} x {columns} has 1 to {rows * columns} cells to choose, got {n = }.')
    flat = scores.flatten(1).float().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best = flat.topk(n, dim=1).indices
    cells = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, True).view(batch, rows, columns)
    return cells_to_mask(cells, size)
