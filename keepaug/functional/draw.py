"""Random numbers from a generator that is handed in, or from torch's stream of the device they are wanted on.

A generator may live on another device than the images; what it draws is moved there.
"""

import torch
from torch import Tensor

from keepaug.private import sample_dirichlet

Device = torch.device | str | None

# Below this, both gamma variates of a Beta draw may be smaller than any number that is not 0, and their share is lost.
LEAST_ALPHA = 0.1


def uniform(
    *shape: int,
    dtype: torch.dtype | None = None,
    device: Device = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Numbers in [0, 1).

    Where no type is named it is float64, if the device has it: u x n, rounded down, is uniform on 0 ... n - 1.
    """
    where = _source(device, generator)
    return torch.rand(shape, dtype=dtype or _widest(where), device=where, generator=generator).to(device)


def normal(*shape: int, dtype: torch.dtype, device: Device = None, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, dtype=dtype, device=_source(device, generator), generator=generator).to(device)


def integers(
    low: int, high: int, *shape: int, device: Device = None, generator: torch.Generator | None = None
) -> Tensor:
    """int64 in low ... high, both ends included."""
    return torch.randint(low, high + 1, shape, device=_source(device, generator), generator=generator).to(device)


def order(count: int, device: Device = None, generator: torch.Generator | None = None) -> Tensor:
    """A random permutation, int64 (count,)."""
    return torch.randperm(count, device=_source(device, generator), generator=generator).to(device)


def beta(count: int, alpha: float, device: Device = None, generator: torch.Generator | None = None) -> Tensor:
    """Beta(alpha, alpha), (count,) in [0, 1]."""
    where = _source(device, generator)
    both = torch.full((count, 2), float(alpha), dtype=_widest(where), device=where)
    # One gamma variable over the sum of two; torch.distributions takes no generator.
    if alpha >= LEAST_ALPHA:
        return sample_dirichlet(both, generator)[:, 0].to(device)
    # Gamma(alpha) is Gamma(alpha + 1) x u^(1 / alpha) (Marsaglia and Tsang, 2000, section 6): the odds in logarithms.
    share = sample_dirichlet(both + 1, generator)[:, 0]
    powers = (1 - torch.rand(both.shape, dtype=both.dtype, device=where, generator=generator)).log()
    return torch.sigmoid(torch.logit(share) + (powers[:, 0] - powers[:, 1]) / alpha).to(device)


def _source(device: Device, generator: torch.Generator | None) -> Device:
    return device if generator is None else generator.device


def _widest(device: Device) -> torch.dtype:
    return torch.float32 if device is not None and torch.device(device).type == 'mps' else torch.float64
