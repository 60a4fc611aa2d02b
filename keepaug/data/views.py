"""Several images of one sample: pairs for keep-paste, copies, and timm's augmentation splits.

In a batch the images of one kind stand together, in the order of the samples: all that are clean, then all that are
augmented; of several copies all first ones, then all second ones. The target comes with a row for each image (timm's
`fast_collate` and `collate_splits`, which repeat it) or for each sample (torch's `default_collate`).
"""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import default_collate

from keepaug.private import default_collate_fn_map


class Views(tuple):
    """Images (C, H, W) of one sample; a batch holds the first of every sample, then the second of every sample.

    timm's `fast_collate` does so with any tuple, torch's `default_collate` with this one.
    """


def collate_views(batch: Sequence[Views], *, collate_fn_map: dict | None = None) -> Tensor:
    """Stacks the views (N, C, H, W) of B samples, N / B each; called by `default_collate`."""
    return default_collate([image for kind in zip(*batch, strict=True) for image in kind])


# The way that `default_collate` documents for types of one's own; importing this module, as unpickling a data set in
# a worker does, is enough.
default_collate_fn_map[Views] = collate_views


def collate_splits(batch: Sequence[tuple]) -> tuple[Tensor, Tensor]:
    """Stacks samples of several views each, without the prefetcher, as timm's `fast_collate` does with it.

    Returns:
        Images (N, C, H, W), and targets with as many rows.
    """
    images, target = default_collate([(Views(views), label) for views, label in batch])
    return images, target.repeat(len(images) // len(target), *[1] * (target.ndim - 1))
