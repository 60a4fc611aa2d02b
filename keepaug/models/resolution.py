"""Running a model at another resolution than it was built for, on the weights it has."""
import copy

import torch
from timm.layers import resample_abs_pos_embed, resample_abs_pos_embed_nhwc, resize_rel_pos_bias_table
from torch import Tensor, nn

from keepaug.functional.saliency import in_eval_mode, run_detached

# What models raise when an image is not of the size they are built for, or a copy cannot be resized.
MISFIT = (RuntimeError, AssertionError, ValueError, IndexError, TypeError, AttributeError, NotImplementedError)


def at_resolution(model: nn.Module, size: tuple[int, int], like: Tensor) -> nn.Module | None:
    """A module that runs a model's live weights on images of a size, or None where there is no such thing.

    Models of flexible size are returned as they are. Models of fixed size that timm can resize (ViT, Swin and their
    kin) get a twin whose position embeddings are resampled from the live ones at each call; no parameter is touched.

    Args:
        model: Bare model.
        size: Images (h, w) to run on.
        like: A batch of images, for channels, type and device.
    """
    if _runs(model, size, like):
        return model
    if not hasattr(model, 'set_input_size'):
        return None
    try:
        twin = ResizedTwin(model, size)
    except MISFIT:
        return None
    return twin if _runs(twin, size, like) else None


def _runs(model: nn.Module, size: tuple[int, int], like: Tensor) -> bool:
    """Whether a forward pass of one empty image succeeds; the model is as before afterwards."""
    x = like.new_zeros(1, like.shape[1], *size)
    try:
        with torch.no_grad(), in_eval_mode(model):
            # Detached, or autocast may keep cast weights without a gradient for the step that follows.
            run_detached(model, x)
    except MISFIT:
        return False
    return True


class ResizedTwin(nn.Module):
    """A model at another input size, on the weights of the original.

    A copy is resized once, for the tables that depend on the size and are not learned (indices, attention masks). Its
    own weights are dropped: each call reads those of the original, and resamples the position embeddings among them.

    Args:
        model: Model with timm's `set_input_size`.
        size: Images (h, w) to run on.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.original = model
        twin = copy.deepcopy(model)
        twin.set_input_size(img_size=size)
        shapes = {name: tensor.shape for name, tensor in _tensors(twin).items()}
        self.resampled = {
            name: shapes[name] for name, tensor in model.named_parameters() if shapes[name] != tensor.shape}
        self.kept = {
            name for name, buffer in model.named_buffers() if shapes.get(name) != buffer.shape}
        _drop_weights(twin)
        # Set past nn.Module: the twin must not appear among this module's parameters and flags.
        object.__setattr__(self, 'twin', twin)

    def forward(self, x: Tensor) -> Tensor:
        # train() drops what eval mode caches of former weights in some models.
        self.twin.train().eval()
        weights = {
            name: self._resample(name, tensor) if name in self.resampled else tensor
            for name, tensor in _tensors(self.original).items() if name not in self.kept}
        return torch.func.functional_call(self.twin, weights, (x,))

    def _resample(self, name: str, embedding: Tensor) -> Tensor:
        """A position embedding brought to the size of the twin's."""
        shape = self.resampled[name]
        owner = name.rpartition('.')[0]
        if 'relative_position_bias_table' in name:
            attention = self.twin.get_submodule(owner)
            return resize_rel_pos_bias_table(embedding, new_window_size=attention.window_size, new_bias_shape=shape)
        if embedding.ndim == 4:
            return resample_abs_pos_embed_nhwc(embedding, new_size=list(shape[1:3]))
        new_grid, old_grid = (
            model.get_submodule(owner).patch_embed.grid_size for model in (self.twin, self.original))
        return resample_abs_pos_embed(
            embedding, new_size=new_grid, old_size=old_grid,
            num_prefix_tokens=embedding.shape[1] - old_grid[0] * old_grid[1])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _drop_weights(model: nn.Module) -> None:
    """Replaces parameters by empty ones without storage; shared ones stay shared."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = empty.setdefault(
                    id(parameter), nn.Parameter(torch.empty_like(parameter, device='meta'), requires_grad=False))
