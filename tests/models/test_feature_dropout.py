"""Where features are dropped, when, and that nothing is left behind."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from keepaug.models.feature_dropout import KINDS, StageDropout, block_shortcuts, last_stages

SMALL_RESNET = dict(layers=(1, 1, 2, 2), channels=(8, 8, 16, 16))
NETWORKS = {
    'resnet50': SMALL_RESNET,
    'resnet18': SMALL_RESNET,
    'cifar_resnet20': dict(layers=(1, 2, 2), channels=(4, 8, 16)),
    'cifar_pyramidnet110_a64': dict(depth=20, alpha=6),
    'cifar_shake_shake26_2x96d': dict(blocks=2, width=8),
}


def create(name):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **NETWORKS[name])


def hooked(model):
    return {name for name, part in model.named_modules() if part._forward_hooks}


def drop(model, kind='dropblock', prob=0.3, block=3):
    dropping = StageDropout(model, kind, block)
    dropping.set_prob(prob)
    return dropping


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('kind', ['dropout', 'spatial'])
def test_dropout_is_behind_every_convolution_of_the_last_two_stages(kind):
    model = create('resnet50')
    dropping = drop(model, kind)
    assert hooked(model) == {
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d) and name.startswith(('layer3.', 'layer4.'))
    }
    assert any('downsample' in name for name in hooked(model))
    del dropping


def test_drop_block_is_on_the_shortcuts_too():
    model = create('resnet50')
    dropping = drop(model)
    blocks = [f'layer{stage}.{block}' for stage in (3, 4) for block in (0, 1)]
    assert hooked(model) == {
        f'{block}.{place}' for block in blocks for place in ('conv1', 'conv2', 'conv3', 'downsample')
    }
    del dropping


@pytest.mark.parametrize('name', NETWORKS)
def test_every_block_has_its_shortcut(name):
    model = create(name)
    for stage in last_stages(model):
        assert len(list(block_shortcuts(stage))) == len(stage) == 2


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', NETWORKS)
def test_training_alone_is_changed(name, kind, images):
    model = create(name)
    untouched = copy.deepcopy(model)
    dropping = drop(model, kind)
    assert model.state_dict().keys() == untouched.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(model.eval()(images), untouched.eval()(images))
        for network in (model, untouched):  # with the statistics of evaluation, to see the dropping alone
            network.train()
            for part in network.modules():
                if isinstance(part, nn.BatchNorm2d) or type(part).__name__ in ('ShakeShake', 'BatchNormAct2d'):
                    part.eval()
        assert not torch.equal(model(images), untouched(images))
        dropping.set_prob(0.0)
        torch.testing.assert_close(model(images), untouched(images))


def test_what_is_dropped(images):
    """Spatial dropout: whole maps behind a convolution of the last stage, at the probability."""
    model, seen = create('resnet18').train(), []
    dropping = drop(model, 'spatial', prob=0.25)
    model.layer4[1].conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        for _ in range(40):
            model(images)
    maps = torch.cat(seen).flatten(0, 1)
    gone = (maps == 0).flatten(1).all(1).float().mean().item()
    assert gone == pytest.approx(0.25, abs=4 * (0.1875 / len(maps)) ** 0.5)
    del dropping


def test_drop_block_drops_a_quarter_as_much_before_the_last_stage():
    model, shares = create('resnet18').train(), {}
    dropping = drop(model, prob=0.2, block=1)
    for name in ('layer3.1', 'layer4.1'):
        block = model.get_submodule(name)
        block.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))  # or ReLU's zeros would count
        block.downsample.register_forward_hook(
            lambda module, inputs, output, name=name: shares.__setitem__(name, (output == 0).float().mean().item())
        )
    with torch.no_grad():
        model(torch.randn(16, 3, 64, 64))
    assert shares['layer3.1'] == pytest.approx(0.05, abs=0.015) and shares['layer4.1'] == pytest.approx(0.2, abs=0.04)
    del dropping


def test_the_hooks_go_with_their_owner(images):
    model = create('resnet18')
    dropping = drop(model)
    average = copy.deepcopy(model)
    assert torch.equal(average.eval()(images), model.eval()(images))
    del dropping
    assert not hooked(model)


def test_a_model_that_is_refused_has_no_hooks():
    model = create('resnet18')
    model.layer4 = nn.Sequential(nn.Conv2d(16, 16, 1))  # without shortcuts, unlike the stage before it
    with pytest.raises(ValueError, match='choose dropout or spatial'):
        drop(model)
    assert not hooked(model)


def test_compiled_model_follows_the_probability(images):
    """One graph for every probability."""
    model = create('resnet18').train()
    dropping = drop(model, prob=0.0)
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, backend=counter)
    outputs = []
    for prob in (0.0, 0.1, 0.2, 0.3):
        dropping.set_prob(prob)
        outputs.append(compiled(images))
    assert counter.frame_count == 1
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize('name', ['test_vit', 'vgg11', 'densenet121'])
def test_models_without_such_stages_are_refused(name):
    with torch.device('meta'):
        model = timm.create_model(name)
    with pytest.raises(ValueError, match='has no convolutions in its last two stages'):
        StageDropout(model, 'dropout', 7)


def test_unknown_shortcuts_are_refused():
    with torch.device('meta'):
        model = timm.create_model('test_efficientnet')
    with pytest.raises(ValueError, match='those of EfficientNet are unknown'):
        StageDropout(model, 'dropblock', 7)
    StageDropout(model, 'spatial', 7)
