"""VGG-GAP, the VGG that tells where an object is: its hidden layers give way to a convolution and mean pooling.

Learning Deep Features for Discriminative Localization (https://arxiv.org/abs/1512.04150), section 3: what follows
conv5-3 becomes a 3x3 convolution of 1024 channels, whose map of a sixteenth of the image's edge is averaged and
classified. CutMix's Table 9 localizes with it. 20,459,304 parameters with 1000 classes.
"""

import logging
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vgg import VGG, cfgs
from torch import Tensor, nn

__all__ = ['VggGap']

_logger = logging.getLogger('train')

GAP_WIDTH = 1024
HIDDEN_WIDTH = 4096


class VggGap(VGG):
    """timm's VGG without its last pooling and hidden layers, with one convolution more."""

    def __init__(self, cfg: list[int | str], num_classes: int = 1000, global_pool: str = 'avg', **kwargs: Any):
        """
        Args:
            cfg: Layers of a VGG as timm writes them, with its last pooling.
            num_classes: Classes; 0 for none.
            global_pool: How the head pools, as timm calls it.
            **kwargs: What else `timm.models.vgg.VGG` takes.
        """
        # One channel is enough for the hidden layers, which go.
        super().__init__([*cfg[:-1], GAP_WIDTH], num_classes=0, mlp_ratio=1 / HIDDEN_WIDTH, **kwargs)
        self.add_module('pre_logits', nn.Identity())
        self.num_classes = num_classes
        self.head = ClassifierHead(GAP_WIDTH, num_classes, pool_type=global_pool, drop_rate=self.drop_rate)
        self.head_hidden_size = self.head.num_features


def take_over_convolutions(state_dict: dict[str, Tensor], model: VggGap) -> dict[str, Tensor]:
    """Fill the convolutions from the weights of the VGG that has hidden layers; its own weights stay as they are.

    Args:
        state_dict: Weights of a VGG by timm's or torchvision's names, or of a VGG-GAP.
        model: The model they are for.

    Returns:
        Weights that `model` loads strictly.
    """
    if not any(name.startswith(('pre_logits.', 'classifier.')) for name in state_dict):
        return state_dict
    _logger.info(
        'The convolutions of VGG keep their pretrained weights. The convolution that VGG-GAP adds and the '
        'classifier start from scratch.'
    )
    taken = {name: tensor for name, tensor in state_dict.items() if name.startswith('features.')}
    return {**model.state_dict(), **taken}


default_cfgs = generate_default_cfgs(
    {
        'vgg16_gap.vgg16_tv_in1k': {
            'hf_hub_id': 'timm/vgg16.tv_in1k',
            'num_classes': 1000,
            'input_size': (3, 224, 224),
            'pool_size': (14, 14),
            'crop_pct': 0.875,
            'interpolation': 'bilinear',
            'mean': IMAGENET_DEFAULT_MEAN,
            'std': IMAGENET_DEFAULT_STD,
            'first_conv': 'features.0',
            'classifier': 'head.fc',
            'license': 'bsd-3-clause',
        },
    }
)


@register_model
def vgg16_gap(pretrained: bool = False, **kwargs: Any) -> VggGap:
    """VGG-GAP of VGG-16; with `pretrained`, torchvision's weights of VGG-16 in its convolutions."""
    feature_cfg = dict(out_indices=(0, 1, 2, 3, 4), flatten_sequential=True)
    return build_model_with_cfg(
        VggGap,
        'vgg16_gap',
        pretrained,
        feature_cfg=feature_cfg,
        pretrained_filter_fn=take_over_convolutions,
        **dict(dict(cfg=cfgs['vgg16']), **kwargs),
    )
