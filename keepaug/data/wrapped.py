"""A data set around another."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import Dataset

Kind = TypeVar('Kind', bound=Dataset)


class WrappedDataset(Dataset):
    """A map-style data set that is another one in all but what a subclass changes.

    Setting `transform`, as timm's loader does, sets that of the inner data set.
    """

    def __init__(self, dataset: Dataset):
        self.dataset: Any = dataset  # with a length, and what else timm's data sets have

    def __getattr__(self, name: str) -> Any:
        # The first is not there yet while a worker unpickles this object; the second would go past `__getitem__`.
        if name in ('dataset', '__getitems__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def transform(self) -> Any:
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self.set_transform(transform)

    def set_transform(self, transform: Any) -> None:
        """Takes a transform, or, of augmentation splits, its three stages; None for none."""
        self.dataset.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        return self.dataset[index]


class Selection(WrappedDataset):
    """Some samples of a data set.

    Args:
        dataset: Map-style data set.
        requests: What the data set is asked for, one per sample.
    """

    def __init__(self, dataset: Dataset, requests: Sequence):
        super().__init__(dataset)
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int):
        return self.dataset[self.requests[index]]


class Repeated(WrappedDataset):
    """A data set that an epoch goes through several times.

    Args:
        dataset: Map-style data set.
        times: How often; part of it once more where this is not a whole number.
    """

    def __init__(self, dataset: Dataset, times: float):
        super().__init__(dataset)
        self.times = times

    def __len__(self) -> int:
        return round(self.times * len(self.dataset))

    def __getitem__(self, index: int):
        return self.dataset[index % len(self.dataset)]


def layers(dataset: Dataset) -> Iterator[Dataset]:
    """A data set and all that it is around, of ours and of timm's, from the outermost on."""
    yield dataset
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
        yield dataset


def find_layer(dataset: Dataset, kind: type[Kind]) -> Kind | None:
    """The outermost layer of a kind; None where there is none."""
    return next((layer for layer in layers(dataset) if isinstance(layer, kind)), None)


def innermost(dataset: Any) -> Any:
    """The data set under all wrappings of ours."""
    return next(layer for layer in layers(dataset) if not isinstance(layer, WrappedDataset))
