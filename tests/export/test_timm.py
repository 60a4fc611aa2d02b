"""Folders and safetensors files that timm loads."""

import json

import pytest
import timm
import torch
from safetensors import safe_open
from timm.data import resolve_model_data_config

from keepaug.export import safetensors, timm_folder
from keepaug.export.source import load_source
from tests.export.checkpoints import create, save

NETWORKS = {
    'test_resnet': dict(model_kwargs=dict(act_layer='silu'), mean=(0.4, 0.5, 0.6), std=(0.2,), crop_pct=0.8),
    'test_vit': dict(img_size=96, in_chans=1),
    'cifar_resnet18': {},
    'test_efficientnet': dict(bn_eps=0.01, gp='max', interpolation='bilinear'),
}


def source_of(name, tmp_path):
    args = NETWORKS[name]
    kwargs = dict(
        args.get('model_kwargs', {}),
        bn_eps=args.get('bn_eps'),
        img_size=args.get('img_size'),
        in_chans=args.get('in_chans'),
        global_pool=args.get('gp'),
    )
    model = create(name, num_classes=3, **kwargs)
    return model, load_source(str(save(tmp_path / 'last.pth.tar', model, name, **args)))


def as_json(config):
    return json.loads(json.dumps(config))


@pytest.mark.parametrize('name', NETWORKS)
def test_folder_is_the_model(name, tmp_path):
    """Built by timm from the folder alone: same function, same preprocessing."""
    model, source = source_of(name, tmp_path)
    timm_folder.export(source, str(tmp_path / 'out'), labels=['cat', 'dog', 'owl'])
    loaded = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True).eval()
    x = torch.randn(2, *source.data_config['input_size'])
    with torch.no_grad():
        assert loaded(x).equal(model(x))
    assert as_json(resolve_model_data_config(loaded)) == as_json(source.data_config)
    assert loaded.pretrained_cfg['label_names'] == ['cat', 'dog', 'owl'] and loaded.num_classes == 3
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['config.json', 'model.safetensors']


def test_sizes_of_the_test_stay_where_the_run_says_nothing(tmp_path):
    """ResNet-18 is tested at 288 px and trained at 224, and the folder must not lose that."""
    source = load_source(str(save(tmp_path / 'last.pth.tar', create('resnet18', num_classes=3), 'resnet18')))
    config = timm_folder.timm_config(source)
    assert config['pretrained_cfg']['test_input_size'] == [3, 288, 288]
    assert not {'url', 'hf_hub_id', 'tag', 'license'} & config['pretrained_cfg'].keys()


def test_a_folder_that_loads_as_another_model_does_not_appear(tmp_path, monkeypatch):
    _, source = source_of('test_resnet', tmp_path)
    other = create('test_resnet', num_classes=3, act_layer='silu')
    torch.nn.init.ones_(other.fc.weight)
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kwargs: other)
    with pytest.raises(ValueError, match='Nothing was written'):
        timm_folder.export(source, str(tmp_path / 'out'))
    assert [path.name for path in tmp_path.iterdir()] == ['last.pth.tar']


def test_safetensors(tmp_path):
    model, source = source_of('test_resnet', tmp_path)
    path = tmp_path / 'model.safetensors'
    safetensors.export(source, str(path), labels=['cat', 'dog', 'owl'])
    loaded = timm.create_model('test_resnet', num_classes=3, checkpoint_path=path, act_layer='silu').eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert loaded(x).equal(model(x))
    with safe_open(path, framework='pt') as file:
        metadata = file.metadata()
    assert metadata['architecture'] == 'test_resnet' and metadata['num_classes'] == '3'
    assert json.loads(metadata['mean']) == [0.4, 0.5, 0.6] and metadata['averaged'] == 'false'
    assert json.loads(metadata['timm_config'])['label_names'] == ['cat', 'dog', 'owl']


def test_arguments_that_json_cannot_hold(tmp_path):
    source = load_source(str(save(tmp_path / 'last.pth.tar', create('test_resnet', num_classes=3), 'test_resnet')))
    source.model._model_args['norm_layer'] = torch.nn.BatchNorm2d
    with pytest.raises(ValueError, match='norm_layer'):
        timm_folder.export(source, str(tmp_path / 'out'))
