"""A data set around another."""
from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset


class WrappedDataset(Dataset):
    """A map-style data set that is another one in all but what a subclass changes.

    Setting `transform`, as timm's loader does, sets that of the inner data set.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # not there yet while a worker unpickles this object
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def transform(self) -> Callable | None:
        return self.dataset.transform

    @transform.setter
    def transform(self, transform: Callable | None) -> None:
        self.dataset.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        return self.dataset[index]
