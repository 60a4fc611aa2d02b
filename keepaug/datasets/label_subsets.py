"""Which of the labels a semi-supervised training may see."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keepaug.ranges import HyperParameterError


def balanced_subset(targets: Sequence[int] | Tensor, count: int, seed: int) -> list[int]:
    """Draw samples of a training set with as many of each class as of any other.

    Where the classes do not divide the count, those drawn by the seed have one more.

    Args:
        targets: Class index of each sample.
        count: Samples to draw.
        seed: The draw follows from it, the same on every machine; torch's own streams are not touched.

    Returns:
        Numbers of the samples, ascending.

    Raises:
        HyperParameterError: `count` is less than the classes, or a class has too few samples for it.
    """
    targets = torch.as_tensor(targets)
    classes, sizes = targets.unique(return_counts=True)
    if count < len(classes):
        raise HyperParameterError('count', f'must be at least {len(classes)}, one label of each class', count)
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.full((len(classes),), count // len(classes))
    wanted[torch.randperm(len(classes), generator=generator)[: count % len(classes)]] += 1
    if (wanted > sizes).any():
        least = sizes.min().item()
        problem = (
            f'must be at most {least * len(classes)}, as the smallest of {len(classes)} classes has {least} '
            f'sample{"s" * (least > 1)}'
        )
        raise HyperParameterError('count', problem, count)
    drawn = []
    for label, share in zip(classes.tolist(), wanted.tolist()):
        samples = (targets == label).nonzero().flatten()
        drawn.append(samples[torch.randperm(len(samples), generator=generator)[:share]])
    return torch.cat(drawn).sort().values.tolist()
