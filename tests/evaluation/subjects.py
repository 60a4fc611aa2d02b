"""Small classifiers and batches for the tests of evaluations."""
import torch
from torch import Tensor, nn

from keepaug.evaluation import Subject
from keepaug.evaluation.data import Batches


def make_subject(model: nn.Module, channels: int = 3, mean: float = 0.5, std: float = 0.25, **changes) -> Subject:
    """A model as evaluations see it, on the CPU, all channels of one mean and one standard deviation."""
    return Subject(
        'toy', model.eval(), model.eval(), torch.full((1, channels, 1, 1), mean), torch.full((1, channels, 1, 1), std),
        **changes)


def make_batches(x: Tensor, target: Tensor, batch_size: int = 4, dataset=None) -> Batches:
    """Images and labels in batches, numbered in order."""
    loader = list(zip(x.split(batch_size), target.split(batch_size)))
    return Batches(dataset, loader, range(len(x)), lambda x, target: (x, target), 'toy')
