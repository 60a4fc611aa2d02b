"""AlexNet, VGG-GAP and DenseNet-264."""

import pytest
import timm
import torch
import torchvision
from timm.models import group_parameters

import keepaug
from keepaug.augment.saliency import PASSES
from keepaug.models.vgg_gap import take_over_convolutions

# Name, parameters with 1000 classes, channels and reductions of the features.
NETWORKS = {
    'alexnet': (61100840, (64, 192, 256, 256), (4, 8, 16, 32)),
    'vgg16_gap': (20459304, (64, 128, 256, 512, 1024), (1, 2, 4, 8, 16)),
    'densenet264': (33337704, (64, 256, 512, 2304, 2688), (2, 4, 8, 16, 32)),
}
# What makes them quick to walk through.
SMALLER = {
    'alexnet': {},
    'vgg16_gap': dict(cfg=[8, 'M', 8, 'M', 16, 'M', 16, 'M', 16, 'M']),
    'densenet264': dict(growth_rate=8, block_config=(2, 2, 2, 2)),
}
every_network = pytest.mark.parametrize('name', NETWORKS)


@pytest.fixture(scope='module')
def models():
    torch.manual_seed(0)
    return {name: timm.create_model(name, num_classes=5, **SMALLER[name]).eval() for name in NETWORKS}


@pytest.fixture(scope='module')
def image():
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


@every_network
def test_the_published_size(name):
    size, channels, reductions = NETWORKS[name]
    with torch.device('meta'):
        model = timm.create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    assert [info['num_chs'] for info in model.feature_info] == list(channels)
    assert [info['reduction'] for info in model.feature_info] == list(reductions)
    cfg, modules = model.pretrained_cfg, dict(model.named_modules())
    assert modules[cfg['classifier']] is model.get_classifier() and model.get_classifier().out_features == 1000
    assert modules[cfg['first_conv']].in_channels == 3


@every_network
def test_features(name, models, image):
    model = models[name]
    shapes = [(2, info['num_chs'], 128 // info['reduction']) for info in model.feature_info]
    if name == 'alexnet':  # whose convolutions and poolings do not pad to a multiple
        shapes = [(2, 64, 31), (2, 192, 15), (2, 256, 7), (2, 256, 3)]
    with torch.no_grad():
        features, intermediates = model.forward_intermediates(image)
        assert torch.equal(model.forward_head(features), model(image))
        assert torch.equal(model.forward_features(image), features)
        assert [x.shape[:3] for x in intermediates] == shapes
        early = model.forward_intermediates(image, indices=[1], stop_early=True, intermediates_only=True)
        assert len(early) == 1 and torch.equal(early[0], intermediates[1])
        only = timm.create_model(name, features_only=True, **SMALLER[name]).eval()
        assert [x.shape[:3] for x in only(image)] == shapes


def test_stopping_early_runs_no_later_layer(models, image):
    model, run = models['alexnet'], []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: run.append(name))
        for name, layer in model.features.named_children()
    ]
    with torch.no_grad():
        model.forward_intermediates(image, indices=[1], stop_early=True, intermediates_only=True)
    for handle in handles:
        handle.remove()
    assert run == ['0', '1', '2', '3', '4']


@every_network
def test_head(name, image):
    model = timm.create_model(name, num_classes=7, in_chans=1, **SMALLER[name]).eval()
    with torch.no_grad():
        features = model.forward_features(image[:, :1])
        hidden = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(model.get_classifier()(hidden), model.forward_head(features))
        assert hidden.shape == (2, model.head_hidden_size)
        for classes in (3, 0, 4):
            model.reset_classifier(classes)
            assert model.num_classes == classes
            assert model.forward_head(features).shape == (2, classes or model.head_hidden_size)
    without = timm.create_model(name, num_classes=0, **SMALLER[name]).eval()
    assert without(image).shape == (2, without.head_hidden_size)


@every_network
def test_state_dict_round_trip(name, models, image):
    other = timm.create_model(name, num_classes=5, **SMALLER[name]).eval()
    other.load_state_dict(models[name].state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(image), models[name](image))


@every_network
def test_layers_for_learning_rates(name, models):
    model = models[name]
    groups = group_parameters(model, model.group_matcher())
    assert sum(len(parameters) for parameters in groups.values()) == len(list(model.parameters()))
    assert model.pretrained_cfg['first_conv'] + '.weight' in groups[0]


@every_network
def test_early_exit_and_saliency(name, models, image):
    model = models[name]
    early_exit = keepaug.EarlyExit(model).eval()
    assert model.feature_info[early_exit.stage]['reduction'] == 4
    with torch.no_grad():
        assert torch.equal(early_exit(image), model(image))
        assert early_exit.early_classifier()(image).shape == (2, 5)
    for pass_name in PASSES:
        augment = keepaug.create_augment('keep-cut', model=early_exit, size=16, saliency=pass_name)
        augment(image, torch.tensor([3, 1]))
        assert augment.last['saliency'].isfinite().all() and augment.last['saliency'].amax() > 0


def test_compiled_alexnet(models, image):
    """The other two are timm's own classes."""
    compiled = torch.compile(models['alexnet'], backend='aot_eager')
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), models['alexnet'](image))


def test_alexnet_is_torchvisions(image):
    theirs = torchvision.models.alexnet().eval()
    ours = timm.create_model('alexnet').eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))
    assert timm.get_pretrained_cfg('alexnet').url == torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url


def test_alexnet_drops_where_torchvisions_does():
    model = timm.create_model('alexnet', drop_rate=0.3)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.3, 0.3]


def test_alexnet_pools_no_features(models):
    with pytest.raises(ValueError, match="global_pool = 'avg' is not possible for AlexNet"):
        timm.create_model('alexnet').reset_classifier(5, 'avg')


def test_vgg_gap_localizes(models, image):
    """Its logits are the mean of a map, as the paper has it: what a class activation map takes."""
    model = models['vgg16_gap']
    with torch.no_grad():
        features = model.forward_features(image)
        maps = torch.einsum('kc, bchw -> bkhw', model.head.fc.weight, features)
        torch.testing.assert_close(maps.mean((2, 3)) + model.head.fc.bias, model(image))
    assert maps.shape[2:] == (8, 8) and features.min() >= 0


def test_vgg_gap_takes_over_the_convolutions_of_vgg(image):
    cfg = SMALLER['vgg16_gap']['cfg']
    source = timm.models.vgg.VGG(cfg, num_classes=3, mlp_ratio=0.01)
    model = timm.create_model('vgg16_gap', **SMALLER['vgg16_gap'])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(take_over_convolutions(source.state_dict(), model), strict=True)
    shared = {name for name in before if name in source.state_dict() and name.startswith('features.')}
    assert shared == {name for name in before if name.startswith('features.') and not name.startswith('features.14.')}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name] if name in shared else before[name])
    assert take_over_convolutions(before, model) is before
