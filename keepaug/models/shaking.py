"""Residual branches that are shaken: scaled at random in training, by one number forward and another backward.

Shake-Shake mixes two branches (Gastaldi 2017, https://arxiv.org/abs/1705.07485), ShakeDrop scales one (Yamada et al.
2018, https://arxiv.org/abs/1802.02375). Every image of a batch has its own numbers, drawn on the device from torch's
default stream. In eval mode they are replaced by their means.
"""

import torch
from torch import Tensor, nn


def scale_apart(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """`x * forward`, whose gradient is that of `x * backward`.

    Args:
        x: Any values `(B, ...)`.
        forward: Factors that broadcast to `x`.
        backward: The same.
    """
    return x * backward + (x * (forward - backward)).detach()


def _one_per_image(x: Tensor) -> Tensor:
    return torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device)


class ShakeDrop(nn.Module):
    """ShakeDrop of a residual branch F: `(b + a - b a) F` forward, `(b + c - b c) F` backward (its Eq. 6).

    b is 1 with probability `1 - rate` and 0 otherwise, a is uniform in [-1, 1], c uniform in [0, 1]. In eval mode the
    branch is scaled by the mean of `b + a - b a`, which is `1 - rate`.
    """

    def __init__(self, rate: float):
        """
        Args:
            rate: Probability that the branch is shaken, from 0 to 1.
        """
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.rate)
        kept = _one_per_image(x).bernoulli_(1 - self.rate)
        a, c = _one_per_image(x).uniform_(-1.0, 1.0), _one_per_image(x).uniform_(0.0, 1.0)
        return scale_apart(x, kept + a - kept * a, kept + c - kept * c)

    def extra_repr(self) -> str:
        return f'rate={self.rate:.3f}'


class ShakeShake(nn.Module):
    """Shake-Shake of two branches: `a F + (1 - a) G` forward, `c F + (1 - c) G` backward (its Eq. 2).

    a and c are uniform in [0, 1]. In eval mode the branches are averaged.
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if not self.training:
            return 0.5 * (first + second)
        a, c = _one_per_image(first).uniform_(0.0, 1.0), _one_per_image(first).uniform_(0.0, 1.0)
        return scale_apart(first, a, c) + scale_apart(second, 1 - a, 1 - c)
