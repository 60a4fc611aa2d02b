import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import group_parameters
from torch import nn

import keepaug.models  # noqa: F401, registers the networks
from keepaug.models.cifar import CifarPreActResNet

# Name, parameters with 10 and 100 classes, channels and reductions of the features, name of the first convolution.
NETWORKS = {
    'cifar_resnet18': (11173962, 11220132, (64, 64, 128, 256, 512), (1, 1, 2, 4, 8), 'conv1'),
    'cifar_preact_resnet18': (11172170, 11218340, (64, 64, 128, 256, 512), (1, 1, 2, 4, 8), 'stem.conv'),
    'cifar_wide_resnet28_10': (36479194, 36536884, (16, 160, 320, 640), (1, 1, 2, 4), 'stem.conv'),
}
SMALL = ('cifar_resnet18', 'cifar_preact_resnet18')
every_network = pytest.mark.parametrize('name', NETWORKS)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope='module')
def models():
    """One of each, in eval mode; tests leave them as they are."""
    return {name: timm.create_model(name).eval() for name in NETWORKS}


@pytest.fixture(scope='module')
def image():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@every_network
def test_registered(name):
    assert name in timm.list_models('cifar_*')
    assert timm.is_model(name)
    assert 'cifar' in timm.list_modules()


@every_network
def test_parameters(name, models):
    ten, hundred, *_ = NETWORKS[name]
    assert count(models[name]) == ten
    with torch.device('meta'):
        assert count(timm.create_model(name, num_classes=100)) == hundred
        assert count(timm.create_model(name, num_classes=0)) < ten


@every_network
def test_data_config(name, models):
    config = resolve_model_data_config(models[name])
    assert config['input_size'] == (3, 32, 32)
    assert config['mean'] == (0.4914, 0.4822, 0.4465) and config['std'] == (0.2470, 0.2435, 0.2616)
    assert config['crop_pct'] == 1.0 and config['interpolation'] == 'bicubic'
    cfg = models[name].pretrained_cfg
    modules = dict(models[name].named_modules())
    assert modules[cfg['classifier']] is models[name].get_classifier()
    assert cfg['first_conv'] == NETWORKS[name][4]
    first = modules[cfg['first_conv']]
    assert (first.kernel_size, first.stride, first.padding, first.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert cfg['pool_size'] == (32 // NETWORKS[name][3][-1],) * 2


@every_network
def test_feature_info_is_measured(name, models, image):
    model, (_, _, channels, reductions, _) = models[name], NETWORKS[name]
    shapes = {}
    hooks = [
        model.get_submodule(info['module']).register_forward_hook(
            lambda module, args, output, key=info['module']: shapes.__setitem__(key, output.shape))
        for info in model.feature_info
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    assert [info['num_chs'] for info in model.feature_info] == list(channels)
    assert [info['reduction'] for info in model.feature_info] == list(reductions)
    for info in model.feature_info:
        side = 16 // info['reduction']
        assert shapes[info['module']] == (1, info['num_chs'], side, side)


@every_network
def test_early_exit_stage_is_the_first(name, models):
    assert models[name].early_exit_stage == models[name].feature_info[1]['module']


@every_network
def test_forward_intermediates(name, models, image):
    model, reductions = models[name], NETWORKS[name][3]
    with torch.no_grad():
        features, intermediates = model.forward_intermediates(image)
        assert torch.equal(features, model.forward_features(image))
        assert torch.equal(model.forward_head(features), model(image))
        assert [16 // x.shape[-1] for x in intermediates] == list(reductions)
        last = model.forward_intermediates(image, indices=[-1], norm=True, intermediates_only=True)
        assert len(last) == 1 and torch.equal(last[0], features)
        last_two = model.forward_intermediates(image, indices=2, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(last_two, intermediates[-2:], strict=True))
        early = model.forward_intermediates(image, indices=[0, 1], stop_early=True, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(early, intermediates[:2], strict=True))


@every_network
def test_features_only(name, image):
    _, _, channels, reductions, _ = NETWORKS[name]
    model = timm.create_model(name, features_only=True).eval()
    with torch.no_grad():
        features = model(image)
    assert model.feature_info.channels() == list(channels) and model.feature_info.reduction() == list(reductions)
    assert [x.shape[1:] for x in features] == [(c, 16 // r, 16 // r) for c, r in zip(channels, reductions)]


@pytest.mark.parametrize('feature_cls', ['list', 'getter', 'hook', 'dict'])
@pytest.mark.parametrize('name', SMALL)
def test_feature_classes(name, feature_cls, image):
    model = timm.create_model(name, features_only=True, out_indices=(0, 2), feature_cls=feature_cls).eval()
    with torch.no_grad():
        features = model(image)
    features = list(features.values()) if isinstance(features, dict) else features
    assert [x.shape[1:] for x in features] == [(64, 16, 16), (128, 8, 8)]


def test_pruning_a_network_of_three_stages(image):
    model = timm.create_model('cifar_wide_resnet28_10', features_only=True, out_indices=(-2,), feature_cls='getter')
    assert [x.shape[1:] for x in model.eval()(image)] == [(320, 8, 8)]
    assert count(model) < 10_000_000  # of 36 million


@every_network
def test_head(name, image):
    model = timm.create_model(name, num_classes=7).eval()
    width = NETWORKS[name][2][-1]
    with torch.no_grad():
        features = model.forward_features(image)
        assert model.forward_head(features, pre_logits=True).shape == (1, width)
        assert model.forward_head(features).shape == (1, 7)
        model.reset_classifier(3)
        assert model.forward_head(features).shape == (1, 3) and model.num_classes == 3
        model.reset_classifier(5, 'max')
        assert model.forward_head(features).shape == (1, 5)
        model.reset_classifier(0, '')
        assert torch.equal(model.forward_head(features), features)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('in_chans, size', [(1, (32, 32)), (3, (8, 8)), (4, (20, 36)), (3, (33, 17))])
def test_other_inputs(name, in_chans, size):
    model = timm.create_model(name, num_classes=100, in_chans=in_chans)
    assert model(torch.randn(2, in_chans, *size)).shape == (2, 100)


def test_direct_call():
    model = keepaug.models.cifar.cifar_resnet18(num_classes=100, in_chans=1)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 100)


@every_network
def test_state_dict_round_trip(name, models, image):
    other = timm.create_model(name).eval()
    other.load_state_dict(models[name].state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(image), models[name](image))


@pytest.mark.parametrize('name', SMALL)
def test_every_parameter_is_trained(name):
    model = timm.create_model(name)
    model(torch.randn(4, 3, 16, 16)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize('name', SMALL)
def test_grad_checkpointing(name):
    torch.manual_seed(0)
    model, x = timm.create_model(name), torch.randn(2, 3, 8, 8)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


@every_network
def test_group_matcher(name, models):
    model = models[name]
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sum(len(parameters) for parameters in groups.values()) == len(list(model.parameters()))
    assert NETWORKS[name][4] + '.weight' in group_parameters(model, model.group_matcher())[0]


@every_network
def test_init(name, models):
    # He initialisation: variance 2 / fan-out of a normal distribution, in the replaced stem as everywhere else.
    for module in models[name].modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            expected = (2 / (9 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=4 / (2 * module.weight.numel()) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_preact_blocks_against_the_paper(models, image):
    """Identity Mappings, Fig. 1 and its remark on the first and last unit, written out for the first stage."""
    model = models['cifar_preact_resnet18']
    weights = model.state_dict()

    def activate(x, prefix):
        norm = [weights[f'{prefix}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')]
        return nn.functional.batch_norm(x, *norm).relu()

    def convolve(x, name):
        return nn.functional.conv2d(x, weights[name + '.weight'], padding=1)

    x = activate(convolve(image, 'stem.conv'), 'stem.norm')
    block = 'stages.0.blocks.0'
    x = x + convolve(activate(convolve(x, block + '.conv1'), block + '.norm2'), block + '.conv2')
    block = 'stages.0.blocks.1'
    y = convolve(activate(x, block + '.norm1'), block + '.conv1')
    x = x + convolve(activate(y, block + '.norm2'), block + '.conv2')
    with torch.no_grad():
        torch.testing.assert_close(x, model.forward_intermediates(image, indices=[1], intermediates_only=True)[0])
        features, (last,) = model.forward_intermediates(image, indices=[-1])
        torch.testing.assert_close(features, activate(last, 'norm'))


def test_block_dropout():
    small = dict(layers=(1, 1), channels=(8, 16), stem_chs=8, num_classes=10)
    model, x = CifarPreActResNet(**small, block_drop_rate=0.5), torch.randn(2, 3, 8, 8)
    assert sum(isinstance(module, nn.Dropout) and module.p == 0.5 for module in model.modules()) == 2
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    plain = CifarPreActResNet(**small).eval()
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain(x), model(x))
    with pytest.raises(ValueError, match='block_drop_rate = 0.5'):
        CifarPreActResNet(**small, block_drop_rate=0.5, norm_layer='evonorms0')


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('output_stride, reductions', [
    (2, [1, 1, 2, 2, 2]), (4, [1, 1, 2, 4, 4]), (16, [1, 1, 2, 4, 8]),
])
def test_output_stride(name, output_stride, reductions, image):
    model = timm.create_model(name, features_only=True, output_stride=output_stride).eval()
    assert model.feature_info.reduction() == reductions
    with torch.no_grad():
        assert [16 // x.shape[-1] for x in model(image)] == reductions


@every_network
def test_impossible_output_stride(name):
    with pytest.raises(ValueError, match='output_stride = 3'):
        timm.create_model(name, output_stride=3)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_script(name, models, image):
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(models[name])(image), models[name](image))
