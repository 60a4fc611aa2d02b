"""Weights whose shape depends on the size of the image, resampled for another size."""

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc, resize_rel_pos_bias_table
from torch import Tensor, nn

Size = tuple[int, ...]  # (h, w), as a shape has it

# No table of timm holds more tokens before those of the grid (class, distillation, registers).
MOST_PREFIX_TOKENS = 16


def resample(name: str, table: Tensor, shape: tuple[int, ...], sizes: tuple[Size, Size], owner: nn.Module) -> Tensor:
    """Interpolates learned values for images of one size to the shape they have for another; differentiable.

    Name and owner tell what the values are; otherwise the axes that change do: a single one is a grid of positions in a
    row, possibly after prefix tokens, and two are its height and width.

    Args:
        name: Name of the parameter in its module.
        table: Values for images of the old size.
        shape: Shape for images of the new size.
        sizes: Old and new image, (H, W) each.
        owner: Module of the new size that the parameter belongs to.

    Raises:
        ValueError: No rule fits.
    """
    axes = [axis for axis, (old, new) in enumerate(zip(table.shape, shape)) if old != new]
    if 'relative_position_bias_table' in name:
        return resize_rel_pos_bias_table(table, new_window_size=owner.window_size, new_bias_shape=shape)
    if name.startswith('rel_pos_'):  # along one edge: rel_pos_h, rel_pos_w
        return _resample_offsets(table, shape[0])
    if isinstance(owner, nn.Linear):  # across positions, as in MLP-Mixer
        gain = table.shape[1] / shape[1] if 1 in axes else 1.0  # fewer inputs, each for more of the image
        for axis in axes:
            table = _resample_positions(table, axis, shape[axis], sizes)
        return table * gain
    if len(axes) == 1:
        return _resample_positions(table, axes[0], shape[axes[0]], sizes)
    if len(axes) == 2 and axes[1] == axes[0] + 1:
        return _resample_grid(table, axes[0], shape)
    raise ValueError(f'{name} of shape {tuple(table.shape)} has no grid that could be resampled to {tuple(shape)}.')


def find_grid(positions: int, size: Size) -> Size | None:
    """Height and width of a grid with so many positions over an image (H, W); None where they make no grid."""
    height, width = size
    if positions < 1:
        return None
    grid = round((positions * height / width) ** 0.5), round((positions * width / height) ** 0.5)
    return grid if grid[0] * grid[1] == positions else None


def _resample_offsets(table: Tensor, length: int) -> Tensor:
    """A table (L, C) of relative positions, as MViT and SAM interpolate theirs."""
    line = F.interpolate(table.float().T[None], size=length, mode='linear')
    return line[0].T.to(table.dtype)


def _resample_positions(table: Tensor, axis: int, positions: int, sizes: tuple[Size, Size]) -> Tensor:
    """A grid in a row along one axis; prefix tokens stay as they are."""
    for prefix in range(MOST_PREFIX_TOKENS + 1):
        old, new = (find_grid(n - prefix, size) for n, size in zip((table.shape[axis], positions), sizes))
        if old and new:
            break
    else:
        raise ValueError(f'{table.shape[axis]} and {positions} positions do not form grids over images of {sizes} px.')
    row = table.movedim(axis, 0)
    tokens = row.reshape(1, len(row), -1)
    tokens = resample_abs_pos_embed(tokens, new_size=new, old_size=old, num_prefix_tokens=prefix)
    return tokens.reshape(positions, *row.shape[1:]).movedim(0, axis)


def _resample_grid(table: Tensor, axis: int, shape: tuple[int, ...]) -> Tensor:
    """A grid along two neighbouring axes."""
    grid = table.movedim((axis, axis + 1), (0, 1))
    height, width = new = shape[axis], shape[axis + 1]
    resampled = resample_abs_pos_embed_nhwc(grid.reshape(1, *grid.shape[:2], -1), new_size=list(new))
    return resampled.reshape(height, width, *grid.shape[2:]).movedim((0, 1), (axis, axis + 1))
