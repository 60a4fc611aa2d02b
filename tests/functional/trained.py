"""A small classifier that has learned something in seconds, for what random weights cannot show."""

import functools

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaug import EarlyExit

SIZE = 32
CLASSES = 4
PATTERN = 10  # edge in pixels of the evidence


def images(n: int, seed: int, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with the pattern of a class somewhere in it: images, classes, and the boxes (n, 4) XYXY of the patterns."""
    generator = torch.Generator().manual_seed(seed)
    edge = PATTERN * size // SIZE
    patterns = 2 * torch.randn(CLASSES, 3, PATTERN // 2, PATTERN // 2, generator=torch.Generator().manual_seed(0))
    patterns = F.interpolate(patterns, size=(edge, edge))
    x = 0.5 * torch.randn(n, 3, size, size, generator=generator)
    target = torch.randint(CLASSES, (n,), generator=generator)
    corners = torch.randint(size - edge + 1, (n, 2), generator=generator)
    for image, k, (left, top) in zip(x, target, corners):
        image[:, top : top + edge, left : left + edge] = patterns[k]
    return x, target, torch.cat([corners, corners + edge], 1)


@functools.cache
def trained(name: str = 'test_resnet', steps: int = 40, size: int = SIZE, **settings) -> EarlyExit:
    """A model with an early head in eval mode, trained on `images`; the same one each time, not to be changed."""
    torch.manual_seed(0)
    model = EarlyExit(timm.create_model(name, num_classes=CLASSES, **settings))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        x, target, _ = images(32, 1 + step, size)
        logits, early = model.train()(x)
        optimizer.zero_grad()
        (F.cross_entropy(logits, target) + F.cross_entropy(early, target)).backward()
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, size: int = SIZE) -> float:
    x, target, _ = images(200, 0, size)
    with torch.no_grad():
        return (model(x).argmax(1) == target).float().mean().item()


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's correlation (n,) of maps (n, 1, H, W)."""
    ranks = torch.stack([maps.flatten(1).argsort(1).argsort(1).double() for maps in (first, second)])
    ranks -= ranks.mean(2, keepdim=True)
    return F.cosine_similarity(ranks[0], ranks[1])
