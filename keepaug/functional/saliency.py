"""Saliency maps: which pixels a model's answer depends on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug.ranges import HyperParameterError

# Float16 gradients below 6e-8 vanish, in whichever layers of a model are of that type; a logit's gradient is scaled up
# by this before it flows back. 2^10 leaves a factor of 64 below the largest float16 for gradients of 1, and as a power
# of two it changes nothing in other types.
GRADIENT_SCALE = 1024.0


def input_saliency(
    model: nn.Module,
    x: Tensor,
    target: Tensor | None,
    size: Sequence[int] | None = None,
) -> Tensor:
    """Channel-wise maximum of the absolute gradient of the label's logit with respect to the image.

    This is the vanilla gradient map of KeepAugment, section 3. The pass is pure: the model runs in eval mode with
    detached parameters; its parameters, buffers, gradients, `requires_grad` and training flags and every random
    number generator are bit-identical afterwards.

    Args:
        model: Bare model (not wrapped in DDP): images to logits (B, K), or to a tuple that starts with them.
        x: Images (B, C, H, W), normalised.
        target: Class indices (B,), soft targets (B, K) for the sum of target x logit, or None for the largest logit.
        size: (h, w) of a bicubic copy on which the pass runs instead (KeepAugment, section 3.1).

    Returns:
        float32 map (B, 1, h, w) of the size the pass ran at, never negative.

    Raises:
        ValueError: It is called under `torch.inference_mode()`, which has no gradients.
    """
    x = _leaf(x)
    if size is not None and tuple(size) != tuple(x.shape[-2:]):
        # In float32: the kernel knows no half precision on CPU.
        x = F.interpolate(x.float(), size=tuple(size), mode='bicubic', antialias=True, align_corners=False).to(x.dtype)
    with torch.enable_grad(), in_eval_mode(model):
        gradient = run_detached(_LogitGradient(model), x.detach().requires_grad_(), target)
    return gradient.detach().abs().amax(1, keepdim=True)


def norm_grad_saliency(model: nn.Module, layer: nn.Module | str, x: Tensor, target: Tensor | None) -> Tensor:
    """Product of the norms of a layer's activation and of the label logit's gradient there, place by place.

    The norms are taken over channels (Occlusions, Eq. 1). Like that of `input_saliency`, the pass is pure. No graph is
    kept before the layer, so its depth saves time and memory.

    Args:
        model: Bare model (not wrapped in DDP): images to logits (B, K), or to a tuple that starts with them.
        layer: A module of the model, or its name. It gives maps, channels first or last, or tokens in the order of
            the image, prefix tokens first; where it gives a tuple, the first entry counts.
        x: Images (B, C, H, W), normalised.
        target: Class indices (B,), soft targets (B, K) for the sum of target x logit, or None for the largest logit.

    Returns:
        float32 map (B, 1, h, w) of the layer's resolution, never negative.

    Raises:
        HyperParameterError: There is no such layer, the logits do not depend on it, or its output is not a map.
        ValueError: It is called under `torch.inference_mode()`, which has no gradients.
    """
    name = layer if isinstance(layer, str) else type(layer).__name__
    if isinstance(layer, str):
        try:
            layer = model.get_submodule(layer)
        except AttributeError as error:
            raise HyperParameterError('layer', f'must name a module of {type(model).__name__}', name) from error
    while isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward and len(layer):
        layer = layer[-1]  # checkpointing calls the parts of a sequence one by one
    outputs: list[Tensor] = []
    with torch.enable_grad(), in_eval_mode(model), _cut_after(layer, outputs):
        gradient = run_detached(_LayerGradient(model, outputs), _leaf(x), target)
    if gradient is None:
        raise HyperParameterError('layer', 'must be one that the logits depend on', name)
    shape = tuple(gradient.shape)
    scrambled = hasattr(model, 'unroll') and len(shape) == 3 and layer is not model.patch_embed
    activation, gradient = (channels_first(features, model, x.shape[-2:]) for features in (outputs[0], gradient))
    if scrambled or activation is None or gradient is None:
        raise HyperParameterError('layer', f'must give maps of the image, not {shape}: choose an earlier one', name)
    norms = [features.detach().float().norm(dim=1, keepdim=True) for features in (activation, gradient)]
    return norms[0] * norms[1]


def _leaf(x: Tensor) -> Tensor:
    """The images apart from any graph.

    Raises:
        ValueError: Gradients cannot be had here.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            'Saliency is a gradient, and torch.inference_mode() has none: call it outside, or under torch.no_grad().'
        )
    return x.clone() if x.is_inference() else x.detach()


@contextmanager
def _cut_after(layer: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    """Makes a layer's output a leaf of the graph, noted in `outputs`."""

    def cut(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        first, *others = output if isinstance(output, (tuple, list)) else (output,)
        leaf = first.detach().requires_grad_()
        outputs.append(leaf)
        # A copy goes on, because what follows may work in place.
        return (leaf.clone(), *others) if isinstance(output, (tuple, list)) else leaf.clone()

    handle = layer.register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def channels_first(features: Tensor, model: nn.Module, size: Sequence[int]) -> Tensor | None:
    """The output of a layer as maps (B, C, h, w), or None if it is not a map of the image.

    Args:
        features: Maps (B, C, h, w) or (B, h, w, C), or tokens (B, N, C), with or without prefix tokens.
        model: The layer's model, for its number of prefix tokens and its layout.
        size: Image (H, W).
    """
    if features.ndim == 3:
        for dropped in (getattr(model, 'num_prefix_tokens', 0), 0):
            grid = _token_grid(features.shape[1] - dropped, size)
            if grid is not None:
                return features[:, dropped:].transpose(1, 2).unflatten(2, grid)
        return None
    if features.ndim != 4:
        return None
    first, last = (_like_image(h, w, size) for h, w in (features.shape[2:], features.shape[1:3]))
    if first and last:  # as many channels as places along an edge: the shape cannot tell
        last = getattr(model, 'output_fmt', None) == 'NHWC'
    if last:
        return features.permute(0, 3, 1, 2)
    return features if first else None


def _token_grid(count: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Height and width of the grid of so many tokens that is shaped like the image; None where there is none."""
    grids = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    grids = [(h, w) for h, w in grids if _like_image(h, w, size)]
    return min(grids, key=lambda grid: abs(grid[0] * size[1] - grid[1] * size[0]), default=None)


def _like_image(height: int, width: int, size: Sequence[int]) -> bool:
    """Whether a map can come from an image by one stride, rounded to whole places."""
    return abs(height * size[1] - width * size[0]) < max(size)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode and gives each its own flag back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    for module, _ in flags:
        module.training = False
    try:
        yield
    finally:
        for module, flag in flags:
            if flag and type(module).train is not nn.Module.train:
                module.train()  # drops what some modules (LeViT's attention) cache of their weights in eval mode
        for module, flag in flags:
            module.training = flag


class _LogitGradient(nn.Module):
    """Forward and backward in one call, so that both see the parameters that `functional_call` puts in place."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, target: Tensor | None) -> Tensor | None:
        return _gradient(_logit(self.model(x), target), x)


class _LayerGradient(nn.Module):
    """The same with respect to the leaf that the model's last call left in `outputs`; None where none leads on."""

    def __init__(self, model: nn.Module, outputs: list[Tensor]):
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, x: Tensor, target: Tensor | None) -> Tensor | None:
        logit = _logit(self.model(x), target)
        if not logit.requires_grad:
            return None
        # A layer called several times counts once; checkpointed ones are called again by the backward pass.
        self.outputs[:] = self.outputs[-1:]
        return _gradient(logit, self.outputs[0])


def _logit(output: Any, target: Tensor | None) -> Tensor:
    """The sum of the logits that explain the samples."""
    logits = output[0] if isinstance(output, (tuple, list)) else output
    return select_logits(logits, target).sum()


def _gradient(logit: Tensor, place: Tensor) -> Tensor | None:
    """The gradient in float32: scaled back there, or what was saved from vanishing would vanish here."""
    (gradient,) = torch.autograd.grad(logit * GRADIENT_SCALE, place, allow_unused=True)
    return None if gradient is None else gradient.float() / GRADIENT_SCALE


def select_logits(logits: Tensor, target: Tensor | None) -> Tensor:
    """The logit (B,) whose gradient explains a sample: the label's, a soft label's mean, or the largest.

    Args:
        logits: (B, K).
        target: Class indices (B,), soft targets (B, K), or None.

    Returns:
        float32 (B,).
    """
    logits = logits.float()
    if target is None:
        return logits.amax(1)
    if target.ndim == 1:
        return logits.gather(1, target[:, None]).squeeze(1)
    return (logits * target).sum(1)


def run_detached(module: nn.Module, *inputs: Any) -> Any:
    """Calls a module with its parameters detached: no graph is kept for them and no gradient reaches them."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return module(*inputs)  # scripted modules take no replaced parameters; grad() with respect to x is pure too
    parameters = {name: parameter.detach() for name, parameter in own_parameters(module).items()}
    return call_with(module, parameters, *inputs)


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name. One shared by several modules appears under each of its names, a shared module once."""
    return {
        f'{prefix}.{name}'.removeprefix('.'): parameter
        for prefix, part in module.named_modules()
        for name, parameter in part._parameters.items()
        if parameter is not None
    }


def call_with(module: nn.Module, tensors: dict[str, Tensor], *inputs: Any) -> Any:
    """Calls a module with tensors in place of its own parameters, by the names of `own_parameters`."""
    # Tying by torch swaps what a shared module holds once per name and, afterwards, puts the wrong one back.
    return torch.func.functional_call(module, tensors, inputs, tie_weights=False)
