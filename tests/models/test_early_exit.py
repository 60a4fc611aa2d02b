"""The early head: where it stands, what it sees, and that the backbone stays the model it was."""

import copy

import pytest
import timm
import torch
from torch import nn

from keepaug import EarlyExit
from keepaug.models.early_exit import find_stage, stage_info
from tests.functional.backbones import BACKBONES, CLASSES, SIZE, create_backbone


@pytest.mark.parametrize(
    'name, module',
    [
        ('cifar_resnet18', 'layer1'),
        ('cifar_wide_resnet28_10', 'stages.0'),
        ('resnet18', 'layer1'),
        ('test_efficientnet', 'blocks.1'),
        ('test_convnext', 'stages.0'),
        ('test_vit', 'blocks.1'),  # six blocks, the second
        ('vit_tiny_patch16_224', 'blocks.2'),  # twelve blocks, the third
        ('swin_tiny_patch4_window7_224', 'layers.0'),
        ('levit_128s', 'stages.0'),
    ],
)
def test_stage_by_family(name, module):
    with torch.device('meta'):
        model = timm.create_model(name)
    assert stage_info(model)[find_stage(model)]['module'] == module


def test_stage_can_be_named_or_numbered():
    model = create_backbone('resnet')
    assert find_stage(model, 'layer2') == find_stage(model, 2) == find_stage(model, '2') == 2
    for wrong in ('layer9', 17, '-1'):
        with pytest.raises(ValueError, match=f'stage {wrong} is not a stage of ResNet: choose act1, layer1'):
            find_stage(model, wrong)


def test_models_without_stages_are_refused_by_name():
    with pytest.raises(ValueError, match='Sequential names none'):
        EarlyExit(nn.Sequential(nn.Linear(3, 2)))


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match='got -1'):
        EarlyExit(create_backbone('resnet'), weight=-1)


@pytest.mark.parametrize('name', BACKBONES)
def test_outputs(name):
    """Training gives both logits, and the main ones, in eval mode of all layers, are the bare model's bit for bit."""
    model = EarlyExit(create_backbone(name))
    x = torch.randn(3, 3, SIZE, SIZE)
    model.backbone.eval(), model.head.eval()
    with torch.no_grad():
        logits, early = model(x)
        assert torch.equal(logits, model.backbone(x))
        assert torch.equal(early, model.early_classifier()(x))
        assert logits.shape == early.shape == (3, CLASSES)
        assert torch.equal(model.eval()(x), logits)


def test_early_logits_are_pooled_and_linear():
    model = EarlyExit(create_backbone('resnet')).eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    backbone = model.backbone
    stem = backbone.maxpool(backbone.act1(backbone.bn1(backbone.conv1(x))))
    expected = model.head(backbone.layer1(stem).mean((2, 3)))
    torch.testing.assert_close(model.early_classifier()(x), expected)


@pytest.mark.parametrize('name', ['resnet', 'convnext', 'vit', 'swin', 'densenet'])
def test_only_the_layers_before_the_head_are_run(name):
    model = EarlyExit(create_backbone(name)).eval()
    backbone = model.backbone
    last = backbone.get_classifier()
    ran = []
    for module in (last, *([backbone.norm] if hasattr(backbone, 'norm') else [])):
        module.register_forward_hook(lambda *_: ran.append(1))
    model.early_classifier()(torch.randn(1, 3, SIZE, SIZE))
    assert not ran
    model(torch.randn(1, 3, SIZE, SIZE))
    assert ran


@pytest.mark.parametrize('name', BACKBONES)
def test_both_losses_reach_every_parameter_before_the_head(name):
    model = EarlyExit(create_backbone(name)).train()
    logits, early = model(torch.randn(3, 3, SIZE, SIZE))
    early.sum().backward(retain_graph=True)
    assert model.head.weight.grad is not None and next(model.backbone.parameters()).grad is not None
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_backbone_is_not_touched():
    backbone = create_backbone('vit')
    before = copy.deepcopy(backbone.state_dict())
    model = EarlyExit(backbone)
    assert model.backbone is backbone and list(backbone.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    assert set(model.state_dict()) == {f'backbone.{name}' for name in before} | {'head.weight', 'head.bias'}


def test_parameter_groups_follow_the_backbones():
    backbone = create_backbone('vit')
    model = EarlyExit(backbone)
    assert model.no_weight_decay() == {f'backbone.{name}' for name in backbone.no_weight_decay()}
    layer = model.group_matcher()
    layers = [layer(name) for name, _ in model.named_parameters()]
    assert min(layers) == layer('backbone.patch_embed.proj.weight') == 0
    assert layer('head.weight') == layer('backbone.head.weight') == max(layers) > 1


def test_channels_last_and_half_precision():
    model = EarlyExit(create_backbone('resnet').to(torch.bfloat16, memory_format=torch.channels_last)).train()
    x = torch.randn(2, 3, SIZE, SIZE, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    assert all(logits.dtype == torch.bfloat16 for logits in model(x))
