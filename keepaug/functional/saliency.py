"""Saliency maps: which pixels a model's answer depends on."""
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Float16 gradients below 6e-8 vanish, in whichever layers of a model are of that type; a logit's gradient is scaled up
# by this before it flows back. 2^10 leaves a factor of 64 below the largest float16 for gradients of 1, and as a power
# of two it changes nothing in other types.
GRADIENT_SCALE = 1024.


def input_saliency(
        model: nn.Module,
        x: Tensor,
        target: Tensor | None,
        size: tuple[int, int] | None = None,
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
    """
    x = x.detach()
    if size is not None and tuple(size) != tuple(x.shape[-2:]):
        # In float32: the kernel knows no half precision on CPU.
        x = F.interpolate(x.float(), size=tuple(size), mode='bicubic', antialias=True, align_corners=False).to(x.dtype)
    with torch.enable_grad(), in_eval_mode(model):
        gradient = run_detached(_LogitGradient(model), x.detach().requires_grad_(), target)
    return gradient.detach().abs().amax(1, keepdim=True)


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

    def forward(self, x: Tensor, target: Tensor | None) -> Tensor:
        output = self.model(x)
        logits = output[0] if isinstance(output, (tuple, list)) else output
        logit = select_logits(logits, target).sum()
        # Scaled back in float32, or what was saved from vanishing would vanish here.
        return torch.autograd.grad(logit * GRADIENT_SCALE, x)[0].float() / GRADIENT_SCALE


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


def run_detached(module: nn.Module, *inputs) -> Tensor:
    """Calls a module with its parameters detached: no graph is kept for them and no gradient reaches them."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return module(*inputs)  # scripted modules take no replaced parameters; grad() with respect to x is pure too
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return torch.func.functional_call(module, parameters, inputs)
