"""DenseNet-264 with the plain stem, of which timm has only a wider variant with a deep stem.

Densely Connected Convolutional Networks, https://arxiv.org/abs/1608.06993, Table 1; Attentive CutMix reports on it.
33,337,704 parameters with 1000 classes.
"""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.densenet import DenseNet

default_cfgs = generate_default_cfgs(
    {
        'densenet264.untrained': {
            'url': '',
            'num_classes': 1000,
            'input_size': (3, 224, 224),
            'pool_size': (7, 7),
            'crop_pct': 0.875,
            'interpolation': 'bicubic',
            'mean': IMAGENET_DEFAULT_MEAN,
            'std': IMAGENET_DEFAULT_STD,
            'first_conv': 'features.conv0',
            'classifier': 'classifier',
        },
    }
)


@register_model
def densenet264(pretrained: bool = False, **kwargs: Any) -> DenseNet:
    """DenseNet-264: 7x7 stem, dense blocks of 6, 12, 64 and 48 layers, growth rate 32."""
    model_args = dict(growth_rate=32, block_config=(6, 12, 64, 48))
    return build_model_with_cfg(
        DenseNet, 'densenet264', pretrained, feature_cfg=dict(flatten_sequential=True), **dict(model_args, **kwargs)
    )
