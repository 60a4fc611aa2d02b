"""Which of the labels a semi-supervised training may see."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
        ValueError: If `count` is fewer than the classes, or a class has too few samples.
    """
    targets = torch.as_tensor(targets)
    classes = targets.unique()
    if count < len(classes):
        raise ValueError(f'{count = } labels are too few for {len(classes)} classes: use at least one of each.')
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.full((len(classes),), count // len(classes))
    wanted[torch.randperm(len(classes), generator=generator)[: count % len(classes)]] += 1
    drawn = []
    for label, share in zip(classes.tolist(), wanted.tolist()):
        samples = (targets == label).nonzero().flatten()
        if share > len(samples):
            raise ValueError(
                f'{count = } labels need {share} of class {label}, which has {len(samples)} samples: use fewer.'
            )
        drawn.append(samples[torch.randperm(len(samples), generator=generator)[:share]])
    return torch.cat(drawn).sort().values.tolist()
