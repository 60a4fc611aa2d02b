"""Where the evidence for a class lies: the class activation map of any timm classifier, else the input saliency."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from timm.layers.test_time_pool import TestTimePoolHead
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from keepaug.functional.attention import CHANNEL_NORMS
from keepaug.functional.saliency import call_with, channels_first, in_eval_mode, input_saliency, own_parameters

CLASS_ACTIVATION = 'class activation map'
INPUT_SALIENCY = 'blurred input saliency'

# A head is taken for linear if what it must satisfy holds but for this share of the logits; at features of ordinary
# size and at large ones, where no activation function is nearly linear any more.
LINEAR_TOLERANCE = 1e-3
PROBE_SCALES = (1.0, 100.0)
PROBE_ROWS = 4

# Gradients at the image are noise from pixel to pixel: without a blur no two marked pixels hang together.
BLUR = 1 / 16  # standard deviation, as a share of the image's shorter edge


class ClassActivation:
    """Maps of the evidence for a class.

    The map of class k at place p is the part of logit k that comes from the features f(p) (Zhou et al. 2016, Eq. 1 and
    2): `M_k(p) = P w_k f(p)` behind mean pooling of P places and a linear layer `w`, so that its mean over the places
    and the bias are the logit. It is read off as features times their gradient, which for such a head is the same
    whatever layers spell it: a linear layer, a 1 x 1 convolution, a batch norm before. A layer norm after the pooling
    counts with the scale it has for the pooled features, at all places alike; then too the mean and the bias are the
    logit. With pooling by the maximum a channel counts at its largest place alone.

    Where no such split exists the map is the input saliency, blurred: a class token or attention pooling (the places
    have no logit of their own), a hidden layer with its activation function in the head, features that are no map of
    the image or a single place.

    Attributes:
        method: 'class activation map' or 'blurred input saliency'; known after the first batch.
    """

    def __init__(self, model: nn.Module):
        """
        Args:
            model: Bare timm classifier (not compiled, not in DDP). One that test-time pooling wraps is explained as
                behind mean pooling of its whole map.
        """
        self.model = model
        self.method: str | None = None

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        """Maps of one class each. Parameters, buffers, gradients and training flags stay as they are.

        Args:
            x: Images (B, C, H, W), normalised, in the type of the model; call it under autocast if that is wanted.
            target: Class indices (B,).

        Returns:
            float32 (B, 1, h, w): at the resolution of the features, of any sign; or of the image, not negative.
        """
        if self.method != INPUT_SALIENCY:
            features: Any = _features(self.model, x)
            if self.method is None:
                self.method = CLASS_ACTIVATION if _is_linear(self.model, features, x) else INPUT_SALIENCY
        if self.method == CLASS_ACTIVATION:
            found: Any = class_activation(self.model, features, target, x.shape[-2:])
            return found.map
        return blur(input_saliency(self.model, x, target))


class Activation(NamedTuple):
    """A class activation map.

    Attributes:
        map: float32 (B, 1, h, w). Its mean and the bias are the logit.
        bias: float32 (B,): the logit that no features give.
        logit: float32 (B,).
    """

    map: Tensor
    bias: Tensor
    logit: Tensor


def class_activation(model: nn.Module, features: Tensor, target: Tensor, size: Sequence[int]) -> Activation | None:
    """Splits a logit into the parts of the places, exactly if the head is linear (see `ClassActivation`).

    The head runs in float32, whatever the model's type: a weight divided by the number of places is small.

    Args:
        model: Bare timm classifier.
        features: What the head gets: maps, channels first or last, or tokens.
        target: Class indices (B,).
        size: Image (H, W).

    Returns:
        The parts, or None where the features are no map of the image.
    """
    with torch.enable_grad(), _float_head(model, _hold_scale) as head:
        features = features.detach().float().requires_grad_()
        logit = head(features).gather(1, target[:, None]).squeeze(1)
        (gradient,) = torch.autograd.grad(logit.sum(), features)
        with torch.no_grad():
            bias = head(torch.zeros_like(features)).gather(1, target[:, None]).squeeze(1)
    parts = channels_first((features * gradient).detach(), model, size)
    if parts is None:
        return None
    parts = parts.sum(1, keepdim=True)
    return Activation(parts * parts[0].numel(), bias, logit.detach())


def blur(saliency: Tensor) -> Tensor:
    """Smooths maps (B, 1, H, W) by a Gaussian of `BLUR` times their shorter edge."""
    sigma = BLUR * min(saliency.shape[-2:])
    with torch.autocast(saliency.device.type, enabled=False):
        return gaussian_blur(saliency, 2 * round(3 * sigma) + 1, [sigma])


class _Head(nn.Module):
    """What a classifier does with its features: features to logits (B, K)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        if isinstance(self.model, TestTimePoolHead):
            return self.model.fc(features.mean((2, 3), keepdim=True)).flatten(1)
        output = self.model.forward_head(features)
        return output[0] if isinstance(output, tuple) else output


@contextmanager
def _float_head(model: nn.Module, norm_hook: Callable) -> Iterator[Callable[[Tensor], Tensor]]:
    """The head of a classifier in float32, features to logits (B, K), with a hook on its channel norms."""
    head = _Head(model)
    tensors = dict(own_parameters(head), **dict(head.named_buffers(remove_duplicate=False)))
    tensors = {name: tensor.detach().float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    handles = [
        module.register_forward_hook(norm_hook)
        for module in model.modules()
        if any(kind in type(module).__name__ for kind in CHANNEL_NORMS)
    ]
    device = next(iter(tensors.values())).device
    try:
        with in_eval_mode(model), torch.autocast(device.type, enabled=False):
            yield lambda features: call_with(head, tensors, features)
    finally:
        for handle in handles:
            handle.remove()


def _features(model: nn.Module, x: Tensor) -> Tensor | None:
    """What the head of a timm classifier gets; None where that is no tensor, or the model is not of timm's kind."""
    model = model.base if isinstance(model, TestTimePoolHead) else model
    if not hasattr(model, 'forward_head'):
        return None
    with torch.no_grad(), in_eval_mode(model):
        features = model.forward_features(x)
    return features if isinstance(features, Tensor) else None


def _is_linear(model: nn.Module, features: Tensor | None, x: Tensor) -> bool:
    """Whether the logits are a bias and what each of several places adds.

    Two things must hold. The parts of the places make up the logit: a class token lies at none of them. And what the
    head makes of two maps is the sum of what it makes of each, but for the bias: behind an activation function it is
    not. Pooling by the maximum counts as linear, so both maps are largest at the same places.
    """
    if features is None:
        return False
    probe = _probe(features).to(x.device)
    found = class_activation(model, probe, torch.zeros(PROBE_ROWS, dtype=torch.int64, device=x.device), x.shape[-2:])
    if found is None or found.map[0].numel() == 1 or not _alike(found.map.mean((1, 2, 3)), found.logit - found.bias):
        return False
    other = probe**3
    for scale in PROBE_SCALES:
        with torch.no_grad(), _float_head(model, _drop_scale) as head:
            bias = head(torch.zeros_like(probe))
            one, two, both = (head(scale * maps) - bias for maps in (probe, other, probe + other))
        if not _alike(one + two, both):
            return False
    return True


def _probe(like: Tensor) -> Tensor:
    """Random features (PROBE_ROWS, ...), the same in every process, for all must come to the same answer.

    They have offsets of channels, as pooling would leave nothing else, and vary over places.
    """
    generator = torch.Generator().manual_seed(0)
    dims = tuple(range(1, like.ndim))
    probe = torch.randn(PROBE_ROWS, *like.shape[1:], generator=generator)
    for dim in dims:
        probe = probe + torch.randn(
            PROBE_ROWS, *(edge if other == dim else 1 for other, edge in zip(dims, like.shape[1:])), generator=generator
        )
    return probe


def _alike(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= LINEAR_TOLERANCE * wanted.abs().max())


def _hold_scale(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Makes a norm linear in its input, at the same output: what it divides by counts as a constant."""
    scale, shift = _scale_and_shift(norm, *inputs)
    return shift + (output - shift) * (scale / scale.detach())


def _drop_scale(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Makes a norm linear in its input: it divides by 1, whatever comes in."""
    scale, shift = _scale_and_shift(norm, *inputs)
    return shift + (output - shift) * scale


def _scale_and_shift(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | float]:
    """What a norm divides by and what it adds."""
    dim = 1 if '2d' in type(norm).__name__ else -1
    mean = 0.0 if 'rms' in type(norm).__name__.lower() else x.mean(dim, keepdim=True)
    scale = ((x - mean).square().mean(dim, keepdim=True) + (norm.eps or 0.0)).sqrt()
    bias = getattr(norm, 'bias', None)
    return scale, 0.0 if bias is None else bias.view(-1, *(1,) * (x.ndim - 2)) if dim == 1 else bias
