"""Any timm network as a Detectron2 backbone, on stand-ins of the classes it touches."""

import importlib.util

import pytest
import timm
import torch
import yaml
from torch import nn

from keepaug.export import detectron2_timm
from keepaug.export.source import load_source
from tests.export import stand_ins
from tests.export.checkpoints import create, save, shift

PATH = detectron2_timm.__file__.replace('detectron2_timm.py', detectron2_timm.MODULE)
# One network per way in which timm extracts features, small ones.
NETWORKS = {
    'resnet10t': dict(channels=(8, 16, 32, 64), stem_width=8),  # FeatureListNet
    'test_convnext': {},  # flattened names
    'test_efficientnet': {},  # EfficientNetFeatures
    'regnety_002': {},
    'swin_tiny_patch4_window7_224': dict(embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),  # channels last
}

SMALL_MAXVIT = dict(embed_dim=(32, 32, 32, 32), depths=(1, 1, 1, 1), stem_width=(32, 32))


def load_module(path=PATH):
    """Imports the file as a user does who copied it: from wherever it lies, without our package."""
    spec = importlib.util.spec_from_file_location('copied_backbone', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def registry():
    with stand_ins.installed() as registry:
        registry.module = load_module()
        yield registry


def config(registry, name, kwargs=None, **settings):
    cfg = stand_ins.get_cfg()
    registry.module.add_timm_config(cfg)
    cfg.MODEL.TIMM.merge(dict(NAME=name, KWARGS=kwargs or {}, **settings))
    return cfg


def build(registry, cfg, builder='build_keepaug_timm_backbone', channels=3):
    return registry[builder](cfg, stand_ins.ShapeSpec(channels=channels))


def test_needs_nothing_of_ours():
    text = open(PATH).read()
    assert 'import keepaug' not in text and 'from keepaug' not in text


@pytest.mark.parametrize('name', NETWORKS)
def test_features_are_timms(name, registry, tmp_path):
    """With a checkpoint's weights and frozen norms, each map is what the classifier computes on its way."""
    kwargs = NETWORKS[name]
    model = create(name, num_classes=3, **kwargs)
    path = save(tmp_path / 'last.pth.tar', model, name)
    backbone = build(registry, config(registry, name, kwargs, CHECKPOINT=str(path))).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        features = backbone(x)
        model.load_state_dict(timm.models.load_state_dict(path))
        intermediates = model.forward_intermediates(x, intermediates_only=True)
    last = {224 // map_.shape[-1]: map_ for map_ in intermediates}
    assert list(features) == ['res2', 'res3', 'res4', 'res5']
    for (feature, map_), stride in zip(features.items(), (4, 8, 16, 32)):
        assert backbone.output_shape()[feature] == stand_ins.ShapeSpec(channels=map_.shape[1], stride=stride)
        torch.testing.assert_close(map_, last[stride], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['test_efficientnet', 'resnet10t'])
def test_frozen_norms_keep_statistics_and_activations(name, registry):
    kwargs = NETWORKS[name]
    torch.manual_seed(0)
    backbone = build(registry, config(registry, name, kwargs)).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    torch.manual_seed(0)
    indices = [info['index'] for info in backbone.body.feature_info.get_dicts()]
    plain = timm.create_model(name, features_only=True, out_indices=indices, **kwargs)
    plain.load_state_dict(backbone.body.state_dict(), strict=False)  # frozen norms have no counters
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for map_, other in zip(backbone(x).values(), plain.eval()(x), strict=True):  # training mode against eval mode
            torch.testing.assert_close(map_, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'freeze_at, frozen',
    [
        (0, []),
        (1, ['conv1', 'bn1']),
        (2, ['conv1', 'bn1', 'layer1']),
        (4, ['conv1', 'bn1', 'layer1', 'layer2', 'layer3']),
        (5, ['conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4']),
    ],
)
def test_freeze_at_counts_as_detectron2_does(freeze_at, frozen, registry):
    cfg = config(registry, 'resnet18', dict(channels=(8, 16, 32, 64)), FREEZE_NORM=False)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    backbone = build(registry, cfg)
    for name, parameter in backbone.body.named_parameters():
        assert parameter.requires_grad == (name.split('.')[0] not in frozen), name
    for name, module in backbone.body.named_modules():
        if 'bn' in name or 'downsample.1' in name:  # statistics of frozen stages stand still, others move
            assert isinstance(module, nn.BatchNorm2d) == (name.split('.')[0] not in frozen), name


def test_freeze_at_on_flattened_names(registry):
    cfg = config(registry, 'test_convnext')
    for freeze_at, stages in [(1, {'stem'}), (2, {'stem', 'stages_0'})]:
        cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
        frozen = {
            name.split('.')[0]
            for name, parameter in build(registry, cfg).body.named_parameters()
            if not parameter.requires_grad
        }
        assert {name if name.startswith('stages') else name.split('_')[0] for name in frozen} == stages


@pytest.mark.parametrize(
    'builder, levels', [('build_keepaug_timm_fpn_backbone', 5), ('build_keepaug_timm_retinanet_fpn_backbone', 6)]
)
def test_pyramids_train(builder, levels, registry):
    cfg = config(registry, 'test_convnext')
    pyramid = build(registry, cfg, builder)
    maps = pyramid(torch.randn(1, 3, 64, 96))
    assert len(maps) == levels and all(map_.shape[1] == 16 for map_ in maps)
    sum(map_.square().mean() for map_ in maps).backward()
    trained = [parameter.grad is not None for parameter in pyramid.bottom_up.parameters() if parameter.requires_grad]
    assert trained and all(trained)


def test_grey_images(registry):
    backbone = build(registry, config(registry, 'test_convnext'), channels=1)
    assert backbone(torch.randn(1, 1, 64, 64))['res5'].shape[-1] == 2


def test_average_or_plain_weights(registry, tmp_path):
    model = create('test_efficientnet', num_classes=3)
    path = save(tmp_path / 'last.pth.tar', model, 'test_efficientnet', averaged=True)
    for use_ema, wanted in [(True, shift(model)), (False, model.state_dict())]:
        cfg = config(registry, 'test_efficientnet', CHECKPOINT=str(path), USE_EMA=use_ema)
        assert build(registry, cfg).body.state_dict()['conv_stem.weight'].equal(wanted['conv_stem.weight'])


@pytest.mark.parametrize(
    'name, words',
    [
        ('test_vit', ['test_vit', 'res2', 'SimpleFeaturePyramid']),
        ('inception_v3', ['inception_v3', 'FPN']),
        ('maxvit_pico_rw_256', ['maxvit_pico_rw_256']),
    ],
)
def test_networks_without_a_pyramid_are_refused_by_name(name, words, registry):
    kwargs = dict(img_size=64) if name == 'test_vit' else {}
    with pytest.raises(ValueError) as refusal:
        build(registry, config(registry, name, kwargs), 'build_keepaug_timm_fpn_backbone')
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize('damage', ['other', 'text', 'absent'])
def test_refuses_other_weights(damage, registry, tmp_path):
    path = tmp_path / 'last.pth.tar'
    if damage == 'other':
        save(path, create('test_resnet'), 'test_resnet')
    elif damage == 'text':
        path.write_text('no checkpoint')
    with pytest.raises(ValueError, match='MODEL.TIMM.CHECKPOINT'):
        build(registry, config(registry, 'test_efficientnet', CHECKPOINT=str(path)))


@pytest.mark.parametrize('name', ['test_convnext', 'swin_tiny_patch4_window7_224'])
def test_exported_folder_is_complete(name, registry, tmp_path):
    """Weights, configuration and the module in one folder: merged as they are, they build the trained network."""
    kwargs = NETWORKS[name]
    model = create(name, num_classes=3, **kwargs)
    path = save(tmp_path / 'last.pth.tar', model, name, model_kwargs=kwargs, mean=(0.5,), std=(0.2,))
    detectron2_timm.export(load_source(str(path)), str(tmp_path / 'out'))
    module = load_module(tmp_path / 'out' / detectron2_timm.MODULE)
    cfg = stand_ins.get_cfg()
    module.add_timm_config(cfg)
    cfg.merge(yaml.safe_load((tmp_path / 'out' / 'config.yaml').read_text()))
    assert cfg.INPUT.FORMAT == 'RGB' and cfg.MODEL.PIXEL_MEAN == [127.5] * 3 and cfg.MODEL.PIXEL_STD == [51.0] * 3
    pyramid = build(registry, cfg, cfg.MODEL.BACKBONE.NAME)
    first, loaded = (next(iter(net.state_dict().values())) for net in (model, pyramid.bottom_up))
    assert loaded.equal(first)


@pytest.mark.parametrize('name', ['test_vit', 'cifar_resnet18'])
def test_export_refuses_networks_without_a_pyramid(name, tmp_path):
    source = load_source(str(save(tmp_path / 'last.pth.tar', create(name, num_classes=3), name)))
    with pytest.raises(ValueError, match=f'{name} has feature maps of stride'):
        detectron2_timm.export(source, str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name, kwargs', [('maxvit_tiny_rw_224', SMALL_MAXVIT), ('coatnet_nano_rw_224', SMALL_MAXVIT)])
def test_networks_of_one_size_are_refused(name, kwargs, tmp_path):
    model = timm.create_model(name, num_classes=3, **kwargs).eval()
    source = load_source(str(save(tmp_path / 'last.pth.tar', model, name, model_kwargs=kwargs)))
    with pytest.raises(ValueError, match=f"{name} does not run on images of .*a detector's images are of any size"):
        detectron2_timm.export(source, str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()
