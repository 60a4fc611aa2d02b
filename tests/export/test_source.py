"""From a checkpoint to the model it describes, without trusting it."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from timm.data import create_dataset
from timm.layers import convert_splitbn_model

from keepaug.export import safetensors as our_safetensors
from keepaug.export.source import load_source, read_labels
from tests.export.checkpoints import create, save, shift
from tests.scripts import TINY, run_train, write_images


@pytest.fixture
def model():
    return create('test_resnet', num_classes=3)


@pytest.fixture
def path(tmp_path, model):
    return save(tmp_path / 'last.pth.tar', model, 'test_resnet')


def assert_same(weights, other):
    assert weights.keys() == other.keys() and all(weights[name].equal(other[name]) for name in weights)


def test_run_describes_its_model(tmp_path):
    """A real run: model arguments, channels, classes and preprocessing come from its own record."""
    data = write_images(tmp_path / 'images')
    run = run_train(
        f'{data} {TINY} --epochs 1 --model-kwargs act_layer=silu --in-chans 1 --mean 0.4 --std 0.3 --crop-pct 1.0 '
        '--keep-cut --keep-size 8 --keep-saliency early',
        tmp_path,
    )
    source = load_source(str(run / 'last.pth.tar'))
    assert source.architecture == 'test_resnet' and source.model.num_classes == 3 and not source.averaged
    assert isinstance(source.model.act1, torch.nn.SiLU) and not source.model.training
    assert source.data_config['input_size'] == (1, 32, 32) and source.data_config['crop_pct'] == 1.0
    assert source.data_config['mean'] == (0.4,) and source.data_config['std'] == (0.3,)
    checkpoint = torch.load(run / 'last.pth.tar', weights_only=False)
    assert 'task_state' in checkpoint  # the early head, which is no part of the model
    assert_same(source.model.state_dict(), checkpoint['state_dict'])


def test_average_goes_first(tmp_path, model):
    path = save(tmp_path / 'last.pth.tar', model, 'test_resnet', averaged=True)
    for use_ema, weights in [(True, shift(model)), (False, model.state_dict())]:
        source = load_source(str(path), use_ema=use_ema)
        assert source.averaged == use_ema
        assert_same(source.model.state_dict(), weights)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda weights: weights,
        lambda weights: {'model': weights},
        lambda weights: {
            'state_dict': {f'module.{name}': tensor for name, tensor in weights.items()},
            'arch': 'resnet',
        },
        lambda weights: {
            'state_dict': {f'_orig_mod.{name}': tensor for name, tensor in weights.items()},
            'task_state': {'head.weight': torch.zeros(3)},
        },
    ],
)
def test_flags_describe_what_the_file_does_not(wrap, tmp_path, model):
    path = tmp_path / 'weights.pth'
    torch.save(wrap(model.state_dict()), path)
    with pytest.raises(ValueError, match='--model'):
        load_source(str(path))
    source = load_source(str(path), dict(model='test_resnet', num_classes=3, mean=[0.5], model_kwargs={}))
    assert_same(source.model.state_dict(), model.state_dict())
    assert source.data_config['mean'] == (0.5,) * 3


def test_flags_go_before_the_file(path):
    source = load_source(str(path), dict(model_kwargs=dict(act_layer='silu'), img_size=64, model='', mean=None))
    assert isinstance(source.model.act1, torch.nn.SiLU) and source.data_config['input_size'] == (3, 64, 64)


@pytest.mark.parametrize('given', [dict(img_size=64), dict(input_size=(1, 64, 64))])
@pytest.mark.parametrize('recorded', [dict(input_size=(1, 32, 32)), dict(img_size=32, in_chans=1)])
def test_a_size_goes_before_any_record_of_it(given, recorded, tmp_path):
    path = save(tmp_path / 'last.pth.tar', create('test_resnet', num_classes=3, in_chans=1), 'test_resnet', **recorded)
    assert load_source(str(path), given).data_config['input_size'] == (1, 64, 64)


def test_epsilon_of_the_run(tmp_path):
    model = create('test_efficientnet', num_classes=3, bn_eps=0.01)
    path = save(tmp_path / 'last.pth.tar', model, 'test_efficientnet', bn_eps=0.01)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert load_source(str(path)).model(x).equal(model(x))


def test_split_batch_norm_evaluates_with_its_main_statistics(tmp_path, model):
    wanted = model.state_dict()
    path = save(tmp_path / 'last.pth.tar', convert_splitbn_model(model, 2), 'test_resnet')
    assert_same(load_source(str(path)).model.state_dict(), wanted)


def test_fixed_size_model(tmp_path):
    model = create('test_vit', num_classes=3, img_size=96)
    path = save(tmp_path / 'last.pth.tar', model, 'test_vit', img_size=96)
    assert load_source(str(path)).data_config['input_size'] == (3, 96, 96)


def test_half_precision_weights_are_taken_exactly(tmp_path, model):
    path = save(tmp_path / 'last.pth.tar', model.bfloat16(), 'test_resnet')
    weight = load_source(str(path)).model.conv1[0].weight
    assert weight.dtype == torch.float32 and weight.equal(model.conv1[0].weight.float())


def test_our_safetensors_describe_themselves(tmp_path):
    model = create('test_vit', num_classes=3, img_size=96, in_chans=1)
    path = save(tmp_path / 'last.pth.tar', model, 'test_vit', averaged=True, img_size=96, in_chans=1, mean=(0.4,))
    first = load_source(str(path))
    our_safetensors.export(first, str(tmp_path / 'vit.safetensors'))
    second = load_source(str(tmp_path / 'vit.safetensors'))
    assert_same(second.model.state_dict(), first.model.state_dict())
    assert second.data_config == first.data_config and second.averaged
    with pytest.raises(ValueError, match='--no-ema'):
        load_source(str(tmp_path / 'vit.safetensors'), use_ema=False)


class _Bomb:
    """Code that a checkpoint would run if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, ('exploded',)


def _truncated(path, whole):
    path.write_bytes(whole.read_bytes()[:3000])


def _explosive(path, whole):
    torch.save({'state_dict': {}, 'args': _Bomb()}, path)


def _explosive_pickle(path, whole):
    path.write_bytes(pickle.dumps({'state_dict': _Bomb()}, protocol=2))


def _text(path, whole):
    path.write_text('no checkpoint')


def _no_weights(path, whole):
    torch.save({'epoch': 3, 'arch': 'test_resnet'}, path)


def _other_model(path, whole):
    save(path, create('test_vit', num_classes=3), 'test_resnet')


def _other_classes(path, whole):
    save(path, create('test_resnet', num_classes=4), 'test_resnet', num_classes=3)


def _unknown_model(path, whole):
    save(path, create('test_resnet', num_classes=3), 'resnet5O')


def _diverged(path, whole):
    model = create('test_resnet', num_classes=3)
    model.fc.bias.data[1] = float('nan')
    save(path, model, 'test_resnet')


def _nonsense_arguments(path, whole):
    save(path, create('test_resnet', num_classes=3), 'test_resnet', model_kwargs='nonsense', mean='white')


def _unknown_arguments(path, whole):
    save(path, create('test_resnet', num_classes=3), 'test_resnet', model_kwargs=dict(nonsense=3))


def _constructor_divides_by_zero(path, whole):
    save(path, create('test_vit', num_classes=3), 'test_vit', model_kwargs=dict(num_heads=0))


def _numbered_weights(path, whole):
    torch.save({'arch': 'test_resnet', 'state_dict': {0: torch.zeros(1)}}, path)


def _weights_without_values(path, whole):
    weights = create('test_resnet', num_classes=3).state_dict()
    torch.save({'arch': 'test_resnet', 'state_dict': {**weights, 'fc.bias': weights['fc.bias'].to('meta')}}, path)


def _sparse_weights(path, whole):
    weights = create('test_resnet', num_classes=3).state_dict()
    torch.save({'arch': 'test_resnet', 'state_dict': {**weights, 'fc.bias': weights['fc.bias'].to_sparse()}}, path)


def _no_numbers(path, whole):
    save(path, create('test_resnet', num_classes=3), 'test_resnet', mean=['a', 'b', 'c'])


def _no_deviation(path, whole):
    save(path, create('test_resnet', num_classes=3), 'test_resnet', std=[0.0])


def _infinite_mean(path, whole):
    save(path, create('test_resnet', num_classes=3), 'test_resnet', mean=[float('nan')])


@pytest.mark.parametrize(
    'damage',
    [
        _truncated,
        _explosive,
        _explosive_pickle,
        _text,
        _no_weights,
        _numbered_weights,
        _weights_without_values,
        _sparse_weights,
        _other_model,
        _other_classes,
        _unknown_model,
        _diverged,
        _nonsense_arguments,
        _unknown_arguments,
        _constructor_divides_by_zero,
        _no_numbers,
        _no_deviation,
        _infinite_mean,
    ],
)
def test_unusable_file_is_one_sentence(damage, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / 'bad.pth.tar'
    damage(bad, path)
    with pytest.raises(ValueError) as refusal:
        load_source(str(bad))
    said = str(refusal.value)
    assert str(bad) in said and '\n' not in said and len(said) < 500
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('content', [b'{', b'no safetensors file', b'\xff' * 64])
def test_damaged_safetensors(content, tmp_path):
    (tmp_path / 'bad.safetensors').write_bytes(content)
    with pytest.raises(ValueError, match='truncated, damaged or no safetensors'):
        load_source(str(tmp_path / 'bad.safetensors'), dict(model='test_resnet'))


def test_safetensors_header_that_lies(tmp_path):
    path = tmp_path / 'bad.safetensors'
    for header in ('{', '[]', '{"architecture": "test_resnet"}', '3'):
        save_file({'weight': torch.zeros(1)}, path, metadata={'timm_config': header})
        with pytest.raises(ValueError, match='bad.safetensors'):
            load_source(str(path))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match='does not exist'):
        load_source(str(tmp_path / 'none.pth.tar'))


def test_labels(tmp_path):
    data = write_images(tmp_path / 'images', per_class=1, classes=11)
    names = [f'class{index}' for index in range(11)]  # class10 last, as timm's reader orders them
    assert read_labels(str(data), 11) == read_labels(str(data / 'train'), 11) == names
    assert list(create_dataset('', root=str(data), split='train').reader.class_to_idx) == names
    (tmp_path / 'names.txt').write_text('cat\ndog\n\n')
    assert read_labels(str(tmp_path / 'names.txt'), 2) == ['cat', 'dog']
    for path, said in [(tmp_path / 'names.txt', '2 classes'), (tmp_path / 'none', r'\(No such'), (data, '11 classes')]:
        with pytest.raises(ValueError, match=f'--labels {path}.*{said}'):
            read_labels(str(path), 3)
