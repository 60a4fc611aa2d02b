"""Class activation maps against the logits they split, over timm's families, and against weights by hand."""

import warnings

import pytest
import timm
import torch
from timm.layers import apply_test_time_pool
from timm.models.vgg import VGG
from torch import nn

import keepaug  # noqa: F401  registers our networks
from keepaug import EarlyExit
from keepaug.evaluation.class_activation import (
    CLASS_ACTIVATION,
    INPUT_SALIENCY,
    ClassActivation,
    _features,
    blur,
    class_activation,
)
from tests.every_family import FAMILIES, create_model
from tests.functional.backbones import assert_untouched, everything

# What stands between pooling and the logits, or instead of pooling, by family: each kind of head once.
LINEAR = (
    'byobnet',
    'convnext',
    'deepseek_vit',
    'efficientnet',
    'eva',
    'hiera',
    'levit',
    'maxxvit',
    'mlp_mixer',
    'naflexvit',
    'nfnet',
    'regnet',
    'swin_transformer',
    'swin_transformer_v2_cr',
    'twins',
    'vision_transformer_relpos',
)
OTHER = {
    'vision_transformer': 'a class token',
    'pit': 'nothing but a class token',
    'coat': 'a list of features',
    'mobilenetv3': 'a convolution and its activation',
    'mambaout': 'a hidden layer',
}


def images(size, rows=3):
    size = size if isinstance(size, tuple) else (size, size)
    return torch.randn(rows, 3, *size, generator=torch.Generator().manual_seed(0))


def small(name, **settings):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return timm.create_model(name, num_classes=5, **settings).eval()


def assert_splits(model, x, tolerance=1e-4):
    """The mean of the map and the bias are the logit."""
    activation = ClassActivation(model)
    target = torch.arange(len(x))
    maps = activation(x, target)
    assert activation.method == CLASS_ACTIVATION
    found = class_activation(model, _features(model, x), target, tuple(x.shape[-2:]))
    assert torch.equal(found.map, maps)
    with torch.no_grad():
        logits = model(x)
    wanted = logits.gather(1, target[:, None])[:, 0]
    assert (maps.mean((1, 2, 3)) + found.bias - wanted).abs().max() <= tolerance * wanted.abs().max()
    return maps


def test_two_class_tokens():
    activation = ClassActivation(small('deit_tiny_distilled_patch16_224', img_size=64, depth=1))
    activation(images(64), torch.arange(3))
    assert activation.method == INPUT_SALIENCY


@pytest.mark.parametrize('name', LINEAR)
def test_mean_and_bias_are_the_logit(name):
    family = FAMILIES[name]
    assert_splits(create_model(family).eval(), images(family.size))


@pytest.mark.parametrize('name', OTHER)
def test_saliency_where_a_logit_does_not_split(name):
    family = FAMILIES[name]
    activation = ClassActivation(create_model(family).eval())
    maps = activation(images(family.size, 2), torch.tensor([0, 1]))
    assert activation.method == INPUT_SALIENCY, OTHER[name]
    assert maps.shape == (2, 1, family.size, family.size) and (maps >= 0).all() and maps.any()


@pytest.mark.parametrize('bias', [0.0, 1e-6, 1e-3, 1.0])
def test_a_hidden_layer_whose_biases_are_small(bias):
    """A fresh VGG head: at large features its logits are nearly proportional to them, and not linear."""
    torch.manual_seed(0)
    model = VGG([8, 'M'], num_classes=5, mlp_ratio=0.01).eval()
    nn.init.constant_(model.pre_logits.fc1.bias, bias)
    nn.init.constant_(model.pre_logits.fc2.bias, -bias)
    activation = ClassActivation(model)
    activation(images(16), torch.arange(3))
    assert activation.method == INPUT_SALIENCY
    model.pre_logits.act1 = model.pre_logits.act2 = nn.Identity()
    assert_splits(model, images(16))


def test_saliency_where_there_is_a_single_place():
    activation = ClassActivation(small('test_resnet'))
    assert activation(images(32), torch.arange(3)).shape == (3, 1, 32, 32)


@pytest.mark.parametrize('pool', ['max', 'avgmax', 'catavgmax'])
def test_other_pooling(pool):
    assert_splits(small('test_resnet', global_pool=pool), images((96, 64)))


@pytest.mark.parametrize(
    'pool, method', [('avg', CLASS_ACTIVATION), ('token', INPUT_SALIENCY), ('map', INPUT_SALIENCY)]
)
def test_tokens(pool, method):
    activation = ClassActivation(small('test_vit', img_size=96, global_pool=pool))
    maps = activation(images(96), torch.arange(3))
    assert activation.method == method
    assert maps.shape[2:] == ((6, 6) if method == CLASS_ACTIVATION else (96, 96))


@pytest.mark.parametrize('name', ['cifar_resnet18', 'cifar_preact_resnet18', 'convnext_zepto_rms'])
def test_shape_of_the_image(name):
    size = (32, 48) if name.startswith('cifar') else (96, 160)
    height, width = assert_splits(small(name), images(size)).shape[2:]
    assert height / width == size[0] / size[1]


def test_a_linear_layer_by_hand():
    model = small('test_resnet')
    x = images(128)
    features = model.forward_features(x)
    wanted = torch.einsum('bchw,bc->bhw', features, model.fc.weight[[3, 1, 4]])[:, None]
    found = ClassActivation(model)(x, torch.tensor([3, 1, 4]))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_norm_behind_the_pooling_by_hand():
    model = small('test_convnext')
    x = images(128)
    nn.init.normal_(model.head.norm.weight)
    features = model.forward_features(x)
    pooled = features.mean((2, 3), keepdim=True)
    scale = (pooled.var(1, correction=0, keepdim=True) + model.head.norm.eps).sqrt()
    normalised = (features - features.mean(1, keepdim=True)) / scale * model.head.norm.weight[:, None, None]
    wanted = torch.einsum('bchw,bc->bhw', normalised, model.head.fc.weight[[3, 1, 4]])[:, None]
    torch.testing.assert_close(ClassActivation(model)(x, torch.tensor([3, 1, 4])), wanted, atol=1e-5, rtol=1e-4)


def test_test_time_pooling_is_explained_as_mean_pooling():
    model, x = small('test_resnet'), images(224)
    plain = ClassActivation(model)(x, torch.arange(3))
    wrapped, is_pooled = apply_test_time_pool(model, dict(input_size=(3, 224, 224)))
    activation = ClassActivation(wrapped)
    torch.testing.assert_close(activation(x, torch.arange(3)), plain)
    assert is_pooled and activation.method == CLASS_ACTIVATION


def test_an_early_head():
    model = EarlyExit(small('test_resnet')).eval().early_classifier()
    assert_splits(model, images(64))


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_vit'])
def test_half_precision(name):
    settings = dict(img_size=96) if 'vit' in name else {}
    x, target = images(96), torch.arange(3)
    wanted = ClassActivation(small(name, **settings))(x, target)
    half = ClassActivation(small(name, **settings).bfloat16())
    with torch.autocast('cpu', torch.bfloat16):
        autocast = ClassActivation(small(name, **settings))(x, target)
    for found in (half(x.bfloat16(), target), autocast):
        assert found.dtype == torch.float32
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.97


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_vit'])
def test_the_model_stays_as_it_is(name):
    model = small(name, **(dict(img_size=96) if 'vit' in name else {})).train()
    before = everything(model)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    ClassActivation(model)(images(96), torch.arange(3))
    assert_untouched(before, model)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_other_models_have_their_saliency():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    activation = ClassActivation(model)
    assert activation(images(32), torch.arange(3)).shape == (3, 1, 32, 32)
    assert activation.method == INPUT_SALIENCY


def test_blur():
    point = torch.zeros(1, 1, 64, 96)
    point[..., 30, 50] = 1
    smooth = blur(point)
    assert smooth.shape == point.shape and smooth.argmax() == point.argmax()
    assert smooth.sum().item() == pytest.approx(1)
    rows = torch.arange(64.0)
    assert ((rows - 30).square() * smooth.sum((0, 1, 3))).sum().sqrt().item() == pytest.approx(4, rel=0.05)  # 64 / 16
