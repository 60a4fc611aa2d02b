"""AlexNet, which timm does not have: torchvision's, with what timm asks of a model.

One weird trick for parallelizing convolutional neural networks, https://arxiv.org/abs/1404.5997. 61,100,840 parameters
with 1000 classes. Layers and names are torchvision's, so that its weights load strictly.
"""

from typing import Any

import torch
import torchvision.models
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from keepaug.private import feature_take_indices

__all__ = ['AlexNet']


class AlexNet(torchvision.models.AlexNet):
    """torchvision's AlexNet. Its smallest input is 63x63 pixels."""

    # What stands before each pooling, and the last pooling; the paper on occlusions calls the first three, and
    # features.6 and features.8 with their ReLUs, conv1 to conv5.
    feature_info = [
        dict(num_chs=64, reduction=4, module='features.1'),
        dict(num_chs=192, reduction=8, module='features.4'),
        dict(num_chs=256, reduction=16, module='features.11'),
        dict(num_chs=256, reduction=32, module='features.12'),
    ]

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.5):
        """
        Args:
            num_classes: Classes; 0 for none.
            in_chans: Channels of the image.
            drop_rate: Dropout before either hidden layer of the classifier. The published network has 0.5; train.py,
                as stock timm, has what `--drop` says, which is 0.
        """
        super().__init__(max(num_classes, 1), dropout=drop_rate)
        self.in_chans = in_chans
        self.num_features = 256
        self.head_hidden_size = self.classifier[-1].in_features
        if in_chans != 3:
            self.features[0] = nn.Conv2d(in_chans, 64, kernel_size=11, stride=4, padding=2)
        self.num_classes = num_classes
        if not num_classes:
            self.reset_classifier(0)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by layer, for layer-wise learning rates."""
        return dict(stem=r'^features\.0', blocks=[(r'^features\.(\d+)', None), (r'^classifier\.(\d+)', (100,))])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refused, as by timm's VGG: the layers are few and small."""
        assert not enable, 'gradient checkpointing not supported'

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier[-1]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a fresh one.

        Args:
            num_classes: Classes; 0 for none.
            global_pool: Not None is refused.

        Raises:
            ValueError: `global_pool` is given: the hidden layers need the features' 6x6 places.
        """
        if global_pool is not None:
            raise ValueError(f'{global_pool = } is not possible for AlexNet, which does not pool its last features.')
        self.num_classes = num_classes
        last = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.classifier[-1] = last.to(self.features[0].weight).train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return features with those that `feature_info` names.

        Args:
            x: Normalised images `(B, C, H, W)`.
            indices: The last n features if a number, all if None, otherwise the features with these indices.
            norm: Without meaning: there is no normalisation.
            stop_early: Whether to stop after the last feature that is wanted.
            output_fmt: NCHW.
            intermediates_only: Whether to leave out the final features.

        Returns:
            The final features `(B, 256, h, w)` and the list of intermediate ones, or the list alone.

        Raises:
            ValueError: If `output_fmt` is not NCHW.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f'{output_fmt = } is not possible for AlexNet: use NCHW.')
        take, last = feature_take_indices(len(self.feature_info), indices)
        places = [self.feature_info[index]['module'] for index in take]
        final = self.feature_info[last]['module']
        intermediates = []
        for name, layer in self.features.named_children():
            x = layer(x)
            if f'features.{name}' in places:
                intermediates.append(x)
            if stop_early and f'features.{name}' == final:
                break
        return intermediates if intermediates_only else (x, intermediates)

    def forward_features(self, x: Tensor) -> Tensor:
        """Final features `(B, 256, h, w)` of images `(B, C, H, W)`."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits `(B, K)` of final features, or what the last layer would see."""
        x = self.avgpool(x).flatten(1)
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, K)` of images `(B, C, H, W)`."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        'alexnet.tv_in1k': {
            'url': torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url,
            'num_classes': 1000,
            'input_size': (3, 224, 224),
            'pool_size': (6, 6),
            'crop_pct': 0.875,
            'interpolation': 'bilinear',
            'mean': IMAGENET_DEFAULT_MEAN,
            'std': IMAGENET_DEFAULT_STD,
            'first_conv': 'features.0',
            'classifier': 'classifier.6',
            'license': 'bsd-3-clause',
        },
    }
)


@register_model
def alexnet(pretrained: bool = False, **kwargs: Any) -> AlexNet:
    """AlexNet with torchvision's layers and, with `pretrained`, its weights."""
    feature_cfg = dict(out_indices=(0, 1, 2, 3), flatten_sequential=True)
    return build_model_with_cfg(AlexNet, 'alexnet', pretrained, feature_cfg=feature_cfg, **kwargs)
