"""Models of ten lines whose answers are known."""

import torch
from torch import Tensor, nn


def linear_model(weights: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logit k is the sum of `weights[k]` (K, C, H, W) times the image, plus `bias[k]`."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weights[0].numel(), len(weights)))
    with torch.no_grad():
        model[1].weight.copy_(weights.flatten(1))
        model[1].bias.copy_(torch.zeros(len(weights)) if bias is None else bias)
    return model


class SmallCnn(nn.Sequential):
    """A sequence that tells of its two stages as the models of timm do."""

    feature_info = [dict(module='2', num_chs=8, reduction=1), dict(module='6', num_chs=8, reduction=2)]

    def forward_intermediates(self, x: Tensor, indices=None, norm=False, output_fmt='NCHW', intermediates_only=False):
        maps = []
        for layer in self[:7]:
            x = layer(x)
            maps += [x] if layer in (self[2], self[6]) else []
        return maps if intermediates_only else (x, maps)


def small_cnn(channels: int = 3, classes: int = 5) -> nn.Module:
    """Convolution, batch norm and dropout: what behaves differently in training and in eval mode."""
    torch.manual_seed(0)
    return SmallCnn(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


class SquareModel(nn.Module):
    """Its only evidence lies in one square of the image, whatever the image's resolution.

    Args:
        square: x0, y0, x1, y1 as shares of the edges.
        channels: Channels of the image.
        classes: Number of logits.
    """

    def __init__(self, square: tuple[float, float, float, float], channels: int = 3, classes: int = 4):
        super().__init__()
        torch.manual_seed(0)
        self.square = square
        self.conv = nn.Conv2d(channels, 8, 1)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x0, y0, x1, y1 = self.square
        features = self.conv(x)[:, :, round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
        return self.head(features.mean((2, 3)))
