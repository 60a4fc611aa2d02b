"""A model that a file describes is built only if the file makes it plausible: in moments, and without its memory."""

import json
import time
from argparse import Namespace

import pytest
import timm
import torch

from keepaug.export.source import load_source
from keepaug.files.checkpoints import check_checkpoint
from keepaug.models import recorded
from keepaug.models.described import check_folder
from keepaug.models.recorded import check_images, check_recorded
from tests.scripts import TINY, refuse_train, refuse_validate, write_images

HOSTILE = {
    'blocks': ('resnet50', {'layers': [10**6] * 4}),
    'some blocks': ('resnet50', {'layers': [20_000] * 4}),
    'channels': ('resnet50', {'base_width': 90_000}),
    'image': ('vit_tiny_patch16_224', {'img_size': 90_000, 'patch_size': 1}),
    'depth': ('vit_tiny_patch16_224', {'depth': 10**12}),
    'path': ('resnet50', {'checkpoint_path': '/etc/passwd'}),
    'download': ('resnet50', {'pretrained_cfg_overlay': {'url': 'http://nowhere'}}),
    'long list': ('resnet50', {'layers': [1] * 10_000}),
}


def hostile(name: str, path) -> str:
    """A checkpoint with small weights and large words."""
    model, kwargs = HOSTILE[name]
    args = Namespace(model=model, model_kwargs=kwargs, num_classes=3)
    weights = timm.create_model('test_resnet', num_classes=3).state_dict()
    torch.save({'arch': model, 'args': args, 'state_dict': weights}, path)
    return str(path)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.mark.parametrize('name', HOSTILE)
def test_export_refuses(name, tmp_path):
    path, start = hostile(name, tmp_path / 'last.pth'), time.monotonic()
    with pytest.raises(ValueError, match=f'CHECKPOINT {path} is refused: '):
        load_source(path)
    assert time.monotonic() - start < 30


def test_what_is_typed_goes_before(tmp_path):
    path = hostile('blocks', tmp_path / 'last.pth')
    with pytest.raises(ValueError, match='does not fit resnet50'):
        load_source(path, dict(model_kwargs={'layers': [1, 1, 1, 1]}))


@pytest.mark.parametrize('name', ['blocks', 'channels'])
def test_comparison_refuses(name, data, tmp_path, capsys):
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path / 'weights.pth')
    path = hostile(name, tmp_path / 'last.pth')
    said = refuse_validate(
        f'{data} --model test_resnet --num-classes 3 --checkpoint {tmp_path}/weights.pth --compare {path} --device cpu '
        '-j 0 --img-size 32',
        capsys,
    )
    assert 'could not be validated' in said


@pytest.mark.parametrize('name', ['blocks', 'channels'])
def test_a_folder_is_refused(name, data, tmp_path, capsys):
    model, kwargs = HOSTILE[name]
    config = dict(architecture=model, num_classes=3, model_args=kwargs, pretrained_cfg={})
    (tmp_path / 'config.json').write_text(json.dumps(config))
    said = refuse_validate(f'{data} --model local-dir:{tmp_path} --device cpu -j 0', capsys)
    assert f'--model local-dir:{tmp_path} is refused: ' in said
    for flag in ('--model', '--kd-model-name', '--attentive-cutmix --attentive-teacher'):
        for place in ('local-dir', 'LOCAL-DIR'):
            said = refuse_train(f'{data} {TINY} {flag} {place}:{tmp_path}', tmp_path / 'out', capsys)
            assert f'{flag.split()[-1]} {place}:{tmp_path} is refused: ' in said


@pytest.mark.parametrize('file', ['open_clip_model.safetensors', 'last.pth.tar', 'x.bin'])
def test_weights_of_a_folder_are_looked_at_whatever_their_name(file, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / file).write_bytes(b'cut')
    with pytest.raises(ValueError, match=f'{file} (cannot be read|is refused)'):
        check_folder(str(tmp_path), '--model')


CONFIG = dict(architecture='test_resnet', num_classes=3, pretrained_cfg={})


@pytest.mark.parametrize(
    'text, said',
    [
        (None, 'has no config.json that can be opened'),
        ('', 'its config.json is not a JSON object'),
        (100_000 * '[', 'its config.json is not a JSON object'),
        ('[1]', 'its config.json is not a JSON object'),
        (json.dumps(dict(CONFIG, pretrained_cfg=[1])), 'a description in a form'),
        (json.dumps(dict(CONFIG, model_args=[1])), 'a description in a form'),
        (json.dumps(dict(CONFIG, num_classes='three')), "it holds 'three' as num_classes"),
        (json.dumps(dict(CONFIG, pretrained_cfg=dict(input_size=[3, 10**6, 32]))), 'as input_size'),
        (json.dumps(CONFIG), 'model.safetensors cannot be read'),
    ],
)
def test_a_folder_is_looked_at(text, said, tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'cut')
    if text is not None:
        (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=f'--model (local-dir:)?{tmp_path}.*{said}'):
        check_folder(str(tmp_path), '--model')


@pytest.mark.parametrize('name', ['blocks', 'channels'])
def test_a_teacher_is_refused(name, data, tmp_path, capsys):
    path = hostile(name, tmp_path / 'last.pth')
    said = refuse_train(
        f'{data} {TINY} --attentive-cutmix --attentive-teacher resnet50 --attentive-teacher-checkpoint {path}',
        tmp_path,
        capsys,
    )
    assert f'--attentive-teacher-checkpoint {path} is refused: ' in said


def test_what_takes_too_long_ends(monkeypatch):
    monkeypatch.setattr(recorded, 'SECONDS', 0.2)

    def build():
        while True:
            pass

    with pytest.raises(ValueError, match='takes more than 0.2 s to build'):
        check_recorded(build, {}, 0, 'some.pth')


@pytest.mark.parametrize('model', ['test_resnet', 'test_vit', 'levit_128s', 'cifar_resnet18'])
def test_no_random_number_is_drawn(model):
    before = torch.get_rng_state()
    check_recorded(lambda: timm.create_model(model), {'layers': [1, 2], 'act_layer': 'relu', 'x': None}, 0, 'some.pth')
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    'changes',
    [
        dict(input_size=(3, 10**6, 32)),
        dict(input_size=(3, 0, 32)),
        dict(input_size=(3, 32, '32')),
        dict(mean=(float('nan'),) * 3),
        dict(std=(0.0, 1.0, 1.0)),
        dict(crop_pct=1e-9),
    ],
)
def test_images_that_cannot_be(changes):
    config = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9)
    check_images(config, 'some.pth')
    with pytest.raises(ValueError, match=f'some.pth prepares images with {[*changes][0]} '):
        check_images(config | changes, 'some.pth')


def test_tensors_that_are_larger_than_their_file(tmp_path):
    torch.save({'state_dict': {'a': torch.zeros(1).expand(10**6, 10**6)}}, tmp_path / 'last.pth')
    with pytest.raises(ValueError, match='a tensor of shape .1000000, 1000000., for which the file is too small'):
        check_checkpoint(str(tmp_path / 'last.pth'), '--resume')
