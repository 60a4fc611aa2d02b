from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_parameters
from torch import nn

import keepaug
from keepaug.augment.saliency import PASSES
from keepaug.models.cifar_preact_resnet import CifarPreActResNet

# Name, parameters with 10 and 100 classes, channels and reductions of the features, name of the first convolution.
# The papers' tables: ResNet-20, 56 and 110 of 0.27, 0.85 and 1.7 million parameters (Deep Residual Learning, Table 6);
# ResNet-110 of 1.1, PyramidNet-110 of 1.7 and PyramidNet-200 of 26.8 million with 100 classes (CutMix, Tables 5 and 6);
# PyramidNet-272 of 26.0 million with 10 (Deep Pyramidal Residual Networks, Table 4); Shake-Shake of 26.2 million (its
# Table 1); WRN-28-2 of 1.5 and WRN-28-10 of 36.5 million (Wide Residual Networks, Table 4).
NETWORKS = {
    'cifar_resnet18': (11173962, 11220132, (64, 64, 128, 256, 512), (1, 1, 2, 4, 8), 'conv1'),
    'cifar_resnet20': (269722, 275572, (16, 16, 32, 64), (1, 1, 2, 4), 'stem.conv'),
    'cifar_resnet56': (853018, 858868, (16, 16, 32, 64), (1, 1, 2, 4), 'stem.conv'),
    'cifar_resnet110': (1727962, 1733812, (16, 16, 32, 64), (1, 1, 2, 4), 'stem.conv'),
    'cifar_resnet110_bottleneck': (1104858, 1127988, (16, 64, 128, 256), (1, 1, 2, 4), 'stem.conv'),
    'cifar_preact_resnet18': (11172170, 11218340, (64, 64, 128, 256, 512), (1, 1, 2, 4, 8), 'stem.conv'),
    'cifar_wide_resnet28_2': (1467610, 1479220, (16, 32, 64, 128), (1, 1, 2, 4), 'stem.conv'),
    'cifar_wide_resnet28_10': (36479194, 36536884, (16, 160, 320, 640), (1, 1, 2, 4), 'stem.conv'),
    'cifar_pyramidnet110_a64': (1696410, 1725300, (16, 148, 236, 320), (1, 1, 2, 4), 'stem.conv'),
    'cifar_pyramidnet200_a240': (26752702, 26844952, (16, 384, 704, 1024), (1, 1, 2, 4), 'stem.conv'),
    'cifar_pyramidnet272_a200': (26049562, 26127412, (16, 328, 596, 864), (1, 1, 2, 4), 'stem.conv'),
    'cifar_shake_shake26_2x96d': (26192922, 26227572, (16, 96, 192, 384), (1, 1, 2, 4), 'stem.conv'),
}
# What makes them quick to walk through: fewer blocks, fewer channels.
SMALLER = {
    'cifar_resnet18': dict(layers=(1, 2, 1, 1), channels=(8, 16, 24, 32)),
    'cifar_resnet20': dict(layers=(1, 2, 1), channels=(8, 16, 32)),
    'cifar_resnet110_bottleneck': dict(layers=(1, 2, 1), channels=(8, 16, 32)),
    'cifar_preact_resnet18': dict(layers=(2, 1, 1, 1), channels=(8, 16, 24, 32), stem_chs=8),
    'cifar_wide_resnet28_2': dict(layers=(1, 2, 1), channels=(16, 24, 32), stem_chs=8),
    'cifar_pyramidnet110_a64': dict(depth=20, alpha=13),
    'cifar_pyramidnet272_a200': dict(depth=20, alpha=13),
    'cifar_shake_shake26_2x96d': dict(blocks=2, width=8),
}
TIMM_STEM = ('cifar_resnet18', 'cifar_preact_resnet18', 'cifar_wide_resnet28_2')
every_network = pytest.mark.parametrize('name', NETWORKS)
every_small_network = pytest.mark.parametrize('name', SMALLER)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def create(name, **kwargs):
    """A small network of its kind, with statistics as after some training."""
    model = timm.create_model(name, **dict(SMALLER[name], **kwargs))
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.fixture(scope='module')
def models():
    """One of each small kind, in eval mode; tests leave them as they are."""
    return {name: create(name).eval() for name in SMALLER}


@pytest.fixture(scope='module')
def image():
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@every_network
def test_registered(name):
    assert name in timm.list_models('cifar_*')
    assert set(timm.list_models('cifar_*')) == set(NETWORKS)
    assert {'cifar_resnet', 'cifar_preact_resnet', 'pyramidnet', 'shake_shake'} <= set(timm.list_modules())


@every_network
def test_the_published_size(name):
    ten, hundred, channels, reductions, first_conv = NETWORKS[name]
    with torch.device('meta'):
        model = timm.create_model(name)
        assert count(model) == ten
        assert count(timm.create_model(f'{name}.cifar100')) == hundred
    assert [info['num_chs'] for info in model.feature_info] == list(channels)
    assert [info['reduction'] for info in model.feature_info] == list(reductions)
    assert model.early_exit_stage == model.feature_info[1]['module']
    cfg, modules = model.pretrained_cfg, dict(model.named_modules())
    assert modules[cfg['classifier']] is model.get_classifier()
    assert cfg['first_conv'] == first_conv and cfg['pool_size'] == (32 // reductions[-1],) * 2
    first = modules[first_conv]
    assert (first.kernel_size, first.stride, first.padding, first.bias) == ((3, 3), (1, 1), (1, 1), None)


@every_network
def test_the_size_is_the_one_the_documentation_has(name):
    ten, hundred, _, reductions, _ = NETWORKS[name]
    row = f'| `{name}` | {", ".join(str(r) for r in reductions[1:])} | {ten:,} | {hundred:,} | '
    assert row in (Path(__file__).parents[2] / 'docs' / 'networks.md').read_text()


@pytest.mark.parametrize(
    'tag, mean, std, classes',
    [
        ('', (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 10),
        ('.cifar100', (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), 100),
    ],
)
@every_network
def test_data_config(name, tag, mean, std, classes):
    cfg = timm.get_pretrained_cfg(name + tag)
    assert cfg.num_classes == classes
    config = resolve_data_config(pretrained_cfg=cfg.to_dict())
    assert config['input_size'] == (3, 32, 32)
    assert config['mean'] == mean and config['std'] == std
    assert config['crop_pct'] == 1.0 and config['interpolation'] == 'bicubic'


@every_small_network
def test_feature_info_is_measured(name, models, image):
    model, shapes = models[name], {}
    hooks = [
        model.get_submodule(info['module']).register_forward_hook(
            lambda module, args, output, key=info['module']: shapes.__setitem__(key, output.shape)
        )
        for info in model.feature_info
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    for info in model.feature_info:
        side = 16 // info['reduction']
        assert shapes[info['module']] == (1, info['num_chs'], side, side)


@every_small_network
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


@every_small_network
def test_stopping_early_runs_no_later_stage(name, models, image):
    model, run = models[name], []
    handles = [
        model.get_submodule(info['module']).register_forward_hook(lambda *_, index=index: run.append(index))
        for index, info in enumerate(model.feature_info)
    ]
    with torch.no_grad():
        model.forward_intermediates(image, indices=[1], stop_early=True, intermediates_only=True)
    for handle in handles:
        handle.remove()
    assert run == [0, 1]


@every_small_network
def test_features_only(name, models, image):
    info = models[name].feature_info
    channels, reductions = [entry['num_chs'] for entry in info], [entry['reduction'] for entry in info]
    model = create(name, features_only=True).eval()
    with torch.no_grad():
        features = model(image)
    assert model.feature_info.channels() == channels and model.feature_info.reduction() == reductions
    assert [x.shape[1:] for x in features] == [(c, 16 // r, 16 // r) for c, r in zip(channels, reductions)]


@pytest.mark.parametrize('feature_cls', ['list', 'getter', 'hook', 'dict'])
@every_small_network
def test_feature_classes(name, feature_cls, models, image):
    model = create(name, features_only=True, out_indices=(0, 2), feature_cls=feature_cls).eval()
    with torch.no_grad():
        features = model(image)
    features = list(features.values()) if isinstance(features, dict) else features
    channels = [entry['num_chs'] for entry in models[name].feature_info]
    assert [x.shape[1:] for x in features] == [(channels[0], 16, 16), (channels[2], 8, 8)]


@every_small_network
def test_pruning(name, models, image):
    last_but_one = len(models[name].feature_info) - 2
    model = create(name, features_only=True, out_indices=(-2,), feature_cls='getter').eval()
    assert 0 < count(model) < 0.75 * count(models[name])
    whole = create(name).eval()
    whole.load_state_dict(models[name].state_dict())
    with torch.no_grad():
        features = whole.forward_intermediates(image, indices=[last_but_one], intermediates_only=True)[0]
        assert [x.shape for x in model(image)] == [features.shape]
        assert whole.prune_intermediate_layers([last_but_one]) == [last_but_one]
        left = whole.forward_intermediates(image, indices=[last_but_one], intermediates_only=True)[0]
        assert torch.equal(left, features)
        assert whole(image).shape == features.shape and whole.num_features == features.shape[1]


@every_small_network
def test_head(name, image):
    model = create(name, num_classes=7).eval()
    width = model.num_features
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


@every_small_network
@pytest.mark.parametrize('in_chans, size', [(1, (32, 32)), (3, (8, 8)), (4, (20, 36)), (3, (33, 17))])
def test_other_inputs(name, in_chans, size):
    model = create(name, num_classes=100, in_chans=in_chans)
    assert model(torch.randn(2, in_chans, *size)).shape == (2, 100)


def test_direct_call():
    model = keepaug.models.cifar_resnet.cifar_resnet18(num_classes=100, in_chans=1)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 100)


@every_small_network
def test_state_dict_round_trip(name, models, image):
    other = create(name).eval()
    other.load_state_dict(models[name].state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other(image), models[name](image))


@every_small_network
def test_every_parameter_is_trained(name):
    model = create(name)
    model(torch.randn(4, 3, 16, 16)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@every_small_network
def test_grad_checkpointing(name):
    """What is drawn in a block is drawn again, the same."""
    model, x = create(name), torch.randn(2, 3, 8, 8)
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed)


@every_small_network
def test_group_matcher(name, models):
    model = models[name]
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sum(len(parameters) for parameters in groups.values()) == len(list(model.parameters()))
    assert NETWORKS[name][4] + '.weight' in group_parameters(model, model.group_matcher())[0]


@every_small_network
def test_init(name):
    # He initialisation: variance 2 / fan-out of a normal distribution, in the replaced stem as everywhere else.
    for module in timm.create_model(name, **SMALLER[name]).modules():
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


@pytest.mark.parametrize('name', TIMM_STEM)
@pytest.mark.parametrize(
    'output_stride, reductions',
    [
        (2, [1, 1, 2, 2, 2]),
        (4, [1, 1, 2, 4, 4]),
        (16, [1, 1, 2, 4, 8]),
    ],
)
def test_output_stride(name, output_stride, reductions, image):
    model = create(name, features_only=True, output_stride=output_stride).eval()
    reductions = reductions[: len(model.feature_info.reduction())]
    assert model.feature_info.reduction() == reductions
    with torch.no_grad():
        assert [16 // x.shape[-1] for x in model(image)] == reductions


@pytest.mark.parametrize('name', TIMM_STEM)
def test_impossible_output_stride(name):
    with pytest.raises(ValueError, match='output_stride = 3'):
        timm.create_model(name, output_stride=3)


@every_small_network
def test_script(name, models, image):
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(models[name])(image), models[name](image))


@every_small_network
def test_early_exit_and_saliency(name, models, image):
    """The head stands behind the first stage, and every pass of the saliency finds its way through the network."""
    early_exit = keepaug.EarlyExit(create(name))
    early_exit.backbone.load_state_dict(models[name].state_dict())
    assert early_exit.stage == 1
    with torch.no_grad():
        assert torch.equal(early_exit.eval()(image), models[name](image))
    logits, early = early_exit.train()(image.repeat(2, 1, 1, 1))
    assert logits.shape == early.shape == (2, 10)
    for pass_name in PASSES:
        augment = keepaug.create_augment('keep-cut', model=early_exit, size=4, saliency=pass_name)
        augment(image, torch.tensor([3]))
        assert augment.last['saliency'].isfinite().all() and augment.last['saliency'].amax() > 0


@pytest.mark.parametrize(
    'name, settings',
    [
        ('cifar_resnet20', dict(layers=(1, 1, 1))),
        ('cifar_pyramidnet272_a200', dict(depth=11)),
        ('cifar_shake_shake26_2x96d', dict(blocks=1)),
    ],
)
def test_compiled_training_step(name, settings):
    """One graph, in which the same numbers are drawn."""
    x, target, gradients = torch.randn(4, 3, 8, 8), torch.arange(4), []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = create(name, **settings)
        forward = torch.compile(model, backend='aot_eager', fullgraph=True) if compiled else model
        torch.manual_seed(1)
        nn.functional.cross_entropy(forward(x), target).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for eager, compiled in zip(*gradients):
        torch.testing.assert_close(eager, compiled)
