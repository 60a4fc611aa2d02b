"""Which timm networks are the plain ResNet, decided from the built model."""

import pytest
import timm
import torch

from keepaug.export.resnet_layout import EPSILON, backbone_weights, read_layout
from tests.export.checkpoints import NARROW, create


@pytest.mark.parametrize(
    'name, numbers',
    [
        ('resnet18', (18, 1, 64, 64)),
        ('resnet34', (34, 1, 64, 64)),
        ('resnet50', (50, 1, 64, 256)),
        ('resnet101', (101, 1, 64, 256)),
        ('resnet152', (152, 1, 64, 256)),
        ('resnet50_gn', (50, 1, 64, 256)),
        ('wide_resnet50_2', (50, 1, 128, 256)),
        ('wide_resnet101_2', (101, 1, 128, 256)),
        ('resnext50_32x4d', (50, 32, 4, 256)),
        ('resnext101_32x4d', (101, 32, 4, 256)),
        ('resnext101_32x8d', (101, 32, 8, 256)),
        ('resnext101_64x4d', (101, 64, 4, 256)),
    ],
)
def test_plain(name, numbers):
    layout = read_layout(timm.create_model(name, device='meta'))
    assert (layout.depth, layout.groups, layout.width, layout.out_channels) == numbers
    assert layout.norm == ('GN' if name.endswith('gn') else 'BN') and layout.stem_channels == 64


@pytest.mark.parametrize(
    'name, kwargs, reason',
    [
        ('resnet50c', {}, 'deep'),
        ('resnet50d', {}, 'deep'),
        ('resnet50t', {}, 'deep'),
        ('resnet50', dict(avg_down=True), 'average-pooled'),
        ('resnet50', dict(down_kernel_size=3), '3x3 convolutions'),
        ('seresnet50', {}, 'attention (SEModule)'),
        ('ecaresnetlight', {}, 'attention'),
        ('resnetaa50', {}, 'anti-aliased'),
        ('resnetblur50', {}, 'anti-aliased'),
        ('resnet50', dict(act_layer='silu'), 'SiLU'),
        ('resnet50', dict(output_stride=16), 'dilated'),
        ('resnet50', dict(output_stride=8), 'dilated'),
        ('resnet50', dict(replace_stem_pool=True), 'max-pool'),
        ('resnet50', dict(block_reduce_first=2), 'narrower'),
        ('resnet50', dict(norm_layer='layernorm2d'), 'batch norm'),
        ('resnet50', dict(channels=(64, 128, 256, 400)), 'double'),
        ('resnet26', {}, 'depth'),
        ('resnet200', {}, 'depth'),
        ('resnetv2_50', {}, 'pre-activated'),
        ('skresnet18', {}, 'SelectiveKernelBasic'),
        ('res2net50_26w_4s', {}, 'Bottle2neck'),
        ('cifar_resnet18', {}, '3x3 convolution of stride 1'),
        ('cifar_preact_resnet18', {}, 'CifarPreActResNet'),
        ('vit_tiny_patch16_224', {}, 'VisionTransformer'),
        ('regnety_002', {}, 'RegNet'),
    ],
)
def test_refused_with_the_reason(name, kwargs, reason):
    with pytest.raises(ValueError) as refusal:
        read_layout(timm.create_model(name, device='meta', **kwargs))
    assert reason in str(refusal.value)


def test_tensors_alone_would_not_tell():
    """The networks whose names and shapes are ResNet-50's, and which compute something else."""
    plain = {name: tensor.shape for name, tensor in timm.create_model('resnet50', device='meta').state_dict().items()}
    others = [('resnetaa50', {}), ('resnet50', dict(act_layer='silu')), ('resnet50', dict(output_stride=16))]
    for name, kwargs in others:
        other = timm.create_model(name, device='meta', **kwargs)
        assert {name: tensor.shape for name, tensor in other.state_dict().items()} == plain


def test_weights_leave_classifier_and_counters_out():
    weights = backbone_weights(timm.create_model('resnet50', device='meta'))
    assert len(weights) == 265  # 53 convolutions, each with weight, scale, shift, mean and variance
    assert not any(name.startswith('fc') or 'num_batches' in name for name in weights)


@pytest.mark.parametrize('eps', [1e-3, 1e-6])
def test_another_epsilon_goes_into_the_variance(eps):
    model = create('resnet18')
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps
    weights = backbone_weights(model)
    torch.testing.assert_close(weights['bn1.running_var'] + EPSILON, model.bn1.running_var + eps)
    assert backbone_weights(create('resnet50', **NARROW))['bn1.running_var'].equal(
        create('resnet50', **NARROW).bn1.running_var
    )
