"""Small classifiers and batches for the tests of evaluations."""

import timm
import torch
from torch import Tensor, nn

from keepaug.evaluation import Subject
from keepaug.evaluation.data import Batches
from keepaug.training.forward import Forward


class Difference(nn.Module):
    """Two classes whose logits differ by twice the image's mean, times a factor."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        mean = (x * self.factor).mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def make_subject(model: nn.Module, channels: int = 3, mean: float = 0.5, std: float = 0.25, **changes) -> Subject:
    """A model as evaluations see it, on the CPU, all channels of one mean and one standard deviation."""
    return Subject(
        'toy',
        model.eval(),
        model.eval(),
        torch.full((1, channels, 1, 1), mean),
        torch.full((1, channels, 1, 1), std),
        **changes,
    )


def network() -> Subject:
    """A small network of ten classes, as it was drawn."""
    torch.manual_seed(1)
    return make_subject(timm.create_model('test_resnet', num_classes=10))


def photographs() -> tuple[Tensor, Tensor]:
    """Ten normalised images for it, and their labels."""
    torch.manual_seed(0)
    return torch.rand(10, 3, 32, 32).sub(0.5).div(0.25), torch.randint(10, (10,))


def make_batches(x: Tensor, target: Tensor, batch_size: int = 4, dataset=None) -> Batches:
    """Images and labels in batches, numbered in order."""
    loader = list(zip(x.split(batch_size), target.split(batch_size)))
    return Batches(dataset, loader, range(len(x)), Forward(), 'toy')
