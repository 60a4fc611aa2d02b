"""Data sets that come with keepaug, by the names that `--dataset` takes."""
from typing import Any

from torch.utils.data import Dataset

from .cluttered_digits import ClutteredDigits

__all__ = ['EMBEDDED_DATASETS', 'EMBEDDED_PREFIX', 'ClutteredDigits', 'create_embedded_dataset']

# Names that start like this are ours, as `torch/` and `hfds/` are others' in timm.
EMBEDDED_PREFIX = 'keepaug/'

EMBEDDED_DATASETS: dict[str, type[Dataset]] = {
    'keepaug/cluttered-digits': ClutteredDigits,
}


def create_embedded_dataset(
        name: str,
        split: str = 'validation',
        num_samples: int | None = None,
        **kwargs: Any,
) -> Dataset:
    """Create a data set that comes with keepaug.

    Args:
        name: The name as `--dataset` takes it, with its prefix, such as `keepaug/cluttered-digits`.
        split: `train` or `validation`, or what timm also calls them.
        num_samples: Number of images; the data set's own number if None.
        **kwargs: What else the class of the data set takes.

    Returns:
        A map-style data set as `timm.data.create_loader` takes it.

    Raises:
        ValueError: If the name is unknown, or for a reason of the data set's own: an unknown split, a package missing.
    """
    if name not in EMBEDDED_DATASETS:
        raise ValueError(f'{name!r} does not come with keepaug: its data sets are {", ".join(EMBEDDED_DATASETS)}.')
    return EMBEDDED_DATASETS[name](split=split, num_samples=num_samples, **kwargs)
