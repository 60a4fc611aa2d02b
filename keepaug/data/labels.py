"""The labels of a data set, without its images where it can tell."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import Dataset

from keepaug.data.wrapped import innermost

_logger = logging.getLogger('train')


def read_labels(dataset: Dataset) -> list[int]:
    """Class index of each sample, as the data set gives it to a loader.

    No image is decoded where the data set or its reader lists the labels, or the reader gives an image as a file. Else
    all images are, without the transform, so that no random number is drawn.

    Args:
        dataset: Map-style data set, in whatever wrapping.
    """
    inner = innermost(dataset)
    if hasattr(inner, 'target'):  # of ours
        return [inner.target(number) for number in range(len(inner))]
    labels = _listed(inner)
    if labels is None:
        _logger.info('The data set does not list its labels, so all images are read once to find them.')
        with _without_transform(inner):
            return [int(inner[number][1]) for number in range(len(inner))]
    change = getattr(inner, 'target_transform', None) or int
    return [int(change(label)) for label in labels]


def _listed(inner: Any) -> Iterable[Any] | None:
    """Labels before the target transform, from where timm's and torchvision's data sets have them; None for nowhere."""
    reader = getattr(inner, 'reader', None)
    for lister in (inner, reader):
        rows = [row[1] for row in getattr(lister, 'samples', ()) if isinstance(row, tuple)]  # of image and label
        for labels in (getattr(lister, 'targets', ()), rows):
            if len(labels) == len(inner) and getattr(labels, 'ndim', 1) == 1:  # QMNIST has eight numbers for each
                return labels
    if reader is not None and hasattr(reader, 'iter_targets'):  # of Hugging Face's sets, whose rows hold the images too
        return reader.iter_targets()
    return None if reader is None else (reader[number][1] for number in range(len(inner)))


@contextlib.contextmanager
def _without_transform(inner: Any) -> Iterator[None]:
    transform = getattr(inner, 'transform', None)
    if transform is None:
        yield
        return
    inner.transform = None
    try:
        yield
    finally:
        inner.transform = transform
