"""ResNets in Detectron2's format: names, values, configuration, and what is refused."""

import io
import os
import pickle
import pickletools

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml

from keepaug.export import detectron2
from keepaug.export.detectron2_resnet import Detectron2ResNet
from keepaug.export.resnet_layout import backbone_weights, read_layout
from keepaug.export.source import load_source
from tests.export.checkpoints import NARROW, create, save

NETWORKS = {
    'resnet18': {},
    'resnet50': NARROW,
    'resnet101': NARROW,
    'resnext50_32x4d': dict(channels=(16, 32, 64, 128), base_width=8),
    'wide_resnet50_2': NARROW,
    'resnet50_gn': dict(channels=(32, 64, 128, 256)),
}


@pytest.fixture
def narrow(tmp_path):
    """A checkpoint of a narrow ResNet-50 with its own normalisation."""
    model = create('resnet50', num_classes=3, **NARROW)
    return save(tmp_path / 'last.pth.tar', model, 'resnet50', model_kwargs=NARROW, mean=(0.4, 0.5, 0.6), std=(0.2,))


def read(folder):
    """Arrays and configuration of an export."""
    with open(folder / 'backbone.pkl', 'rb') as file:
        return pickle.load(file), yaml.safe_load((folder / 'config.yaml').read_text())


@pytest.mark.parametrize('name', NETWORKS)
def test_features_are_timms(name, tmp_path):
    kwargs = NETWORKS[name]
    model = create(name, num_classes=3, **kwargs)
    path = save(tmp_path / 'last.pth.tar', model, name, model_kwargs=kwargs)
    detectron2.export(load_source(str(path)), str(tmp_path / 'out'))
    content, config = read(tmp_path / 'out')
    images = torch.rand(2, 3, 70, 90) * 255  # of a size no stride divides
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(-1, 1, 1) for key in ('mean', 'std'))
    with torch.no_grad():
        features = Detectron2ResNet(config, content['model'])(images)
        wanted = model.forward_intermediates((images / 255 - mean) / std, intermediates_only=True)[1:]
    for feature, other in zip(features.values(), wanted, strict=True):
        torch.testing.assert_close(feature, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())
    header = (tmp_path / 'out' / 'config.yaml').read_text().split('VERSION')[0]
    assert ('not C4' in header) == (name == 'resnet18')


def test_restatement_agrees_with_torchvision():
    """Reference: torchvision's ResNet-18, loaded with the same weights under its own names."""
    model = create('resnet18')
    arrays = detectron2.rename(backbone_weights(model))
    config = dict(
        MODEL=dict(
            PIXEL_MEAN=[0.0] * 3,
            PIXEL_STD=[1.0] * 3,
            RESNETS=dict(
                DEPTH=18,
                NUM_GROUPS=1,
                WIDTH_PER_GROUP=64,
                STRIDE_IN_1X1=False,
                STEM_OUT_CHANNELS=64,
                RES2_OUT_CHANNELS=64,
                NORM='FrozenBN',
            ),
        )
    )
    other = torchvision.models.resnet18().eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        y = Detectron2ResNet(config, arrays)(x)['res5']
        wanted = torch.nn.Sequential(*list(other.children())[:-2])(x)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)


def test_names():
    """Drawn by hand."""
    names = detectron2.rename(
        {
            name: torch.zeros(1)
            for name in (
                'conv1.weight',
                'bn1.running_var',
                'layer1.0.conv1.weight',
                'layer1.0.bn3.bias',
                'layer1.0.downsample.0.weight',
                'layer4.2.downsample.1.running_mean',
            )
        }
    )
    assert list(names) == [
        'stem.conv1.weight',
        'stem.conv1.norm.running_var',
        'res2.0.conv1.weight',
        'res2.0.conv3.norm.bias',
        'res2.0.shortcut.weight',
        'res5.2.shortcut.norm.running_mean',
    ]


def test_every_key_that_goes_with_the_weights(narrow, tmp_path):
    detectron2.export(load_source(str(narrow)), str(tmp_path / 'out'))
    content, config = read(tmp_path / 'out')
    assert config == dict(
        VERSION=2,
        INPUT=dict(FORMAT='RGB'),
        MODEL=dict(
            WEIGHTS=str(tmp_path / 'out' / 'backbone.pkl'),
            PIXEL_MEAN=[102.0, 127.5, 153.0],
            PIXEL_STD=[51.0, 51.0, 51.0],
            RESNETS=dict(
                DEPTH=50,
                NUM_GROUPS=1,
                WIDTH_PER_GROUP=16,
                STRIDE_IN_1X1=False,
                STEM_OUT_CHANNELS=64,
                RES2_OUT_CHANNELS=64,
                NORM='FrozenBN',
            ),
        ),
    )
    assert content['matching_heuristics'] is True and content['__author__'] == 'keepaug'
    # 52 convolutions, each with its norm; so narrow, the first stage needs no shortcut.
    assert len(content['model']) == 260


def test_normalisation_of_the_architecture_where_the_run_has_none():
    """ImageNet's numbers as Detectron2's documents have them."""
    config = detectron2.pixel_config(
        dict(input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    )
    assert config['MODEL'] == dict(PIXEL_MEAN=[123.675, 116.28, 103.53], PIXEL_STD=[58.395, 57.12, 57.375])


def test_grey_images(tmp_path):
    model = create('resnet50', in_chans=1, **NARROW)
    path = save(tmp_path / 'last.pth.tar', model, 'resnet50', in_chans=1, model_kwargs=NARROW)
    detectron2.export(load_source(str(path)), str(tmp_path / 'out'))
    config = read(tmp_path / 'out')[1]
    assert config['INPUT']['FORMAT'] == 'L' and len(config['MODEL']['PIXEL_MEAN']) == 1
    save(path, create('resnet50', in_chans=4, **NARROW), 'resnet50', in_chans=4, model_kwargs=NARROW)
    with pytest.raises(ValueError, match='4 channels'):
        detectron2.export(load_source(str(path)), str(tmp_path / 'four'))


def test_base_makes_the_configuration_complete(narrow, tmp_path):
    detectron2.export(load_source(str(narrow)), str(tmp_path / 'out'), base='configs/faster_rcnn.yaml')
    assert read(tmp_path / 'out')[1]['_BASE_'] == os.path.abspath('configs/faster_rcnn.yaml')


def test_every_numpy_reads_the_file(narrow, tmp_path):
    """Nothing but numpy.ndarray and plain types is named, so that old releases find everything."""
    detectron2.export(load_source(str(narrow)), str(tmp_path / 'out'))
    data = (tmp_path / 'out' / 'backbone.pkl').read_bytes()
    operations = list(pickletools.genops(data))
    assert operations[0][1] <= 4
    texts = {argument for operation, argument, _ in operations if 'UNICODE' in operation.name}
    assert 'ndarray' in texts and not any('_core' in text or 'multiarray' in text for text in texts)
    arrays = pickle.load(io.BytesIO(data))['model']
    for array in arrays.values():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    assert len(data) < 1.05 * sum(array.nbytes for array in arrays.values()) + 50_000


@pytest.mark.parametrize(
    'prefix, stages',
    [
        ('backbone.bottom_up.', ('stem', 'res2', 'res3', 'res4', 'res5')),  # FPN
        ('backbone.', ('stem', 'res2', 'res3', 'res4')),  # C4, and its head
        ('roi_heads.', ('res5',)),
    ],
)
def test_one_file_serves_every_meta_architecture(prefix, stages):
    """Each tensor of the detector takes the entry that is its longest suffix, as `matching_heuristics` chooses."""
    arrays = detectron2.rename(backbone_weights(timm.create_model('resnet50', **NARROW)))
    for name in arrays:
        if name.startswith(stages):
            wanted = prefix + name
            matches = [key for key in arrays if wanted == key or wanted.endswith('.' + key)]
            assert matches == [name]


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda config, arrays: config['MODEL']['RESNETS'].update(STRIDE_IN_1X1=True), 'res3'),
        (lambda config, arrays: config['MODEL'].update(PIXEL_MEAN=config['MODEL']['PIXEL_MEAN'][::-1]), 'res'),
        (lambda config, arrays: config['MODEL'].update(PIXEL_STD=[1.0, 1.0, 1.0]), 'res'),
        (lambda config, arrays: arrays.pop('res3.0.conv2.norm.running_mean'), 'res3.0.conv2.norm.running_mean'),
        (lambda config, arrays: arrays.update(fc=np.zeros(3, np.float32)), 'fc'),
        (lambda config, arrays: config['MODEL']['RESNETS'].update(WIDTH_PER_GROUP=64), 'shape|size'),
        (lambda config, arrays: arrays['res5.2.conv3.norm.bias'].fill(np.nan), 'res5'),
        (lambda config, arrays: arrays['res4.0.shortcut.weight'].__imul__(1.01), 'res'),
    ],
)
def test_refuses_what_does_not_compute_the_same(change, words, narrow):
    source = load_source(str(narrow))
    config = detectron2.build_config(source, read_layout(source.model), 'backbone.pkl')
    arrays = {name: array.copy() for name, array in detectron2.rename(backbone_weights(source.model)).items()}
    assert detectron2.compare(source.model, source.data_config, config, arrays) < 1e-5
    change(config, arrays)
    with pytest.raises(ValueError, match='Nothing was written') as refusal:
        detectron2.compare(source.model, source.data_config, config, arrays)
    assert any(word in str(refusal.value) for word in words.split('|'))


def test_a_mismatch_leaves_nothing_behind(narrow, tmp_path, monkeypatch):
    monkeypatch.setattr(
        detectron2, 'backbone_weights', lambda model: {**backbone_weights(model), 'bn1.bias': torch.ones(64)}
    )
    with pytest.raises(ValueError, match='Nothing was written'):
        detectron2.export(load_source(str(narrow)), str(tmp_path / 'out'))
    assert [path.name for path in tmp_path.iterdir()] == ['last.pth.tar']


@pytest.mark.parametrize(
    'name, kwargs, reason',
    [
        ('resnetaa50', NARROW, 'anti-aliased'),
        ('resnet50', dict(act_layer='silu', **NARROW), 'SiLU'),
        ('resnet50', dict(output_stride=16, **NARROW), 'dilated'),
        ('resnet18', NARROW, '16 channels'),
        ('test_vit', {}, 'VisionTransformer'),
    ],
)
def test_refusals_name_reason_and_alternative(name, kwargs, reason, tmp_path):
    path = save(tmp_path / 'last.pth.tar', create(name, **kwargs), name, model_kwargs=kwargs)
    with pytest.raises(ValueError) as refusal:
        detectron2.export(load_source(str(path)), str(tmp_path / 'out'))
    assert name in str(refusal.value) and reason in str(refusal.value)
    assert 'keepaug.export detectron2-timm' in str(refusal.value)
    assert not (tmp_path / 'out').exists()


def test_batch_norm_of_another_epsilon_is_exact(narrow):
    source = load_source(str(narrow))
    for module in source.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    config = detectron2.build_config(source, read_layout(source.model), 'backbone.pkl')
    arrays = detectron2.rename(backbone_weights(source.model))
    assert detectron2.compare(source.model, source.data_config, config, arrays) < 1e-5
