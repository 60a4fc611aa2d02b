"""python -m keepaug.export: what it writes, says and refuses."""

import os
import runpy
import shlex
import sys

import pytest
import timm
import torch

from keepaug.export import command
from tests.export.checkpoints import create, save, shift


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A ResNet-18 of three classes with an average."""
    folder = tmp_path_factory.mktemp('run')
    return save(folder / 'last.pth.tar', create('resnet18', num_classes=3), 'resnet18', averaged=True, img_size=32)


def refuse(argv):
    """What a command line that must be refused says."""
    with pytest.raises(ValueError) as refused:
        command.main([str(word) for word in argv])
    said = str(refused.value)
    assert '\n' not in said
    return said


@pytest.mark.parametrize(
    'form, files',
    [
        ('detectron2', ['backbone.pkl', 'config.yaml']),
        ('detectron2-timm', ['config.yaml', 'detectron2_backbone.py', 'model.safetensors']),
        ('torchvision', None),
        ('timm', ['config.json', 'model.safetensors']),
        ('safetensors', None),
    ],
)
def test_every_format_is_written_and_explained(form, files, checkpoint, tmp_path, capsys):
    output = tmp_path / 'deep' / f'out{command.FORMATS[form].suffix}'
    command.main([form, str(checkpoint), '--output', str(output)])
    said = capsys.readouterr().out
    assert 'resnet18, 3 classes' in said and 'running average' in said and '--no-ema' in said and str(output) in said
    assert (sorted(os.listdir(output)) if files else None) == files
    assert os.listdir(tmp_path / 'deep') == [output.name]


def test_plain_weights_on_request(tmp_path, capsys):
    model = create('test_resnet', num_classes=3)
    checkpoint = save(tmp_path / 'last.pth.tar', model, 'test_resnet', averaged=True)
    for flags, wanted, words in [((), shift(model), 'running average'), (('--no-ema',), model.state_dict(), 'plain')]:
        command.main(['safetensors', str(checkpoint), '-o', str(tmp_path / 'model.safetensors'), *flags])
        assert words in capsys.readouterr().out
        loaded = timm.models.load_state_dict(tmp_path / 'model.safetensors')
        assert loaded['fc.weight'].equal(wanted['fc.weight'])


def test_flags_describe_a_bare_file(tmp_path):
    (tmp_path / 'base.yaml').write_text('MODEL: {}')
    torch.save(create('resnet50', num_classes=3, channels=(16, 32, 64, 128)).state_dict(), tmp_path / 'weights.pth')
    command.main(
        [
            'detectron2',
            str(tmp_path / 'weights.pth'),
            '--output',
            str(tmp_path / 'out'),
            '--model',
            'resnet50',
            '--num-classes',
            '3',
            '--model-kwargs',
            'channels=(16,32,64,128)',
            '--mean',
            '0.5',
            '--std',
            '0.2',
            '--base',
            str(tmp_path / 'base.yaml'),
        ]
    )
    written = (tmp_path / 'out' / 'config.yaml').read_text()
    assert '- 127.5' in written and f'_BASE_: {tmp_path}/base.yaml' in written


def test_refusals(checkpoint, tmp_path):
    (tmp_path / 'text.pth.tar').write_text('no checkpoint')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').write_text('in the way')
    for argv, words in [
        (['timm', tmp_path / 'text.pth.tar', '-o', tmp_path / 'out'], ['text.pth.tar', 'no checkpoint']),
        (['timm', tmp_path / 'none', '-o', tmp_path / 'out'], ['none', 'does not exist']),
        (['timm', checkpoint, '-o', tmp_path / 'full'], ['--output', 'full', 'exists']),
        (['torchvision', checkpoint, '-o', checkpoint], ['--output', 'itself']),
        (['safetensors', checkpoint, '-o', tmp_path / 'out.bin'], ['--output', '.safetensors']),
        (['detectron2', checkpoint, '-o', tmp_path / 'out', '--base', tmp_path / 'none'], ['--base', 'does not exist']),
        (['timm', checkpoint, '-o', tmp_path / 'out', '--labels', tmp_path / 'none'], ['--labels']),
        (['timm', checkpoint, '-o', tmp_path / 'out', '--num-classes', 5], ['5 classes', 'fc.weight', '--num-classes']),
        (['timm', checkpoint, '-o', tmp_path / 'out', '--model', 'resnet5O'], ['resnet5O', '--model']),
        (
            ['detectron2', checkpoint, '-o', tmp_path / 'out', '--model-kwargs', 'act_layer=silu'],
            ['SiLU', 'detectron2-timm'],
        ),
        (['detectron2', checkpoint, '-o', '/dev/null/out'], ['--output /dev/null/out']),
    ]:
        said = refuse(argv)
        assert all(word in said for word in words), said
    assert sorted(os.listdir(tmp_path)) == ['full', 'text.pth.tar']


def test_an_interrupted_export_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('keepaug.export.timm_folder.save_weights', interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.main(['timm', str(checkpoint), '--output', str(tmp_path / 'out')])
    assert os.listdir(tmp_path) == []


def test_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['export', '--help'])
    with pytest.raises(SystemExit) as leave:
        runpy.run_module('keepaug.export', run_name='__main__')
    assert leave.value.code == 0 and 'python -m keepaug.export' in capsys.readouterr().out


@pytest.mark.parametrize(
    'name, text, words',
    [
        ('lazy.py', 'from detectron2.config import LazyCall as L\nmodel = L(dict)(a=1)\n', 'neither MODEL'),
        ('binary.yaml', b'\x80\x04\x95\xff', 'not YAML'),
        ('list.yaml', '- a\n- b\n', 'neither MODEL nor _BASE_'),
        ('other.yaml', 'model: resnet18\n', 'neither MODEL nor _BASE_'),
        ('absent.yaml', None, 'does not exist'),
    ],
)
def test_a_base_that_detectron2_cannot_merge(name, text, words, checkpoint, tmp_path):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refuse(['detectron2', checkpoint, '-o', tmp_path / 'out', '--base', tmp_path / name])
    assert f'--base {tmp_path / name}' in said and words in said and 'faster_rcnn' in said


def test_a_base_may_hold_the_tags_of_detectron2_s_own(checkpoint, tmp_path):
    base = tmp_path / 'Base-RetinaNet.yaml'
    base.write_text('MODEL:\n  SIZES: !!python/object/apply:eval ["[[x] for x in [32, 64]]"]\n')
    command.main(['detectron2', str(checkpoint), '-o', str(tmp_path / 'out'), '--base', str(base)])


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--mean', '123', '116', '103'], ['--mean 123', '255']),
        (['--std', '0'], ['--std', 'above 0']),
        (['--gp='], ["--gp ''"]),
        (['--img-size', '0'], ['--img-size', '0']),
        (['--in-chans', '1', '--input-size', '3', '8', '8'], ['--in-chans 1', '--input-size 3 8 8']),
    ],
)
def test_flags_out_of_range(flags, words, checkpoint, tmp_path):
    said = refuse(['timm', checkpoint, '-o', tmp_path / 'out', *flags])
    assert all(word in said for word in words) and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('base', [False, True])
def test_where_the_detector_s_own_file_goes(base, checkpoint, tmp_path, capsys):
    (tmp_path / 'base.yaml').write_text('MODEL: {}\n')
    flags = ['--base', str(tmp_path / 'base.yaml')] if base else []
    command.main(['detectron2-timm', str(checkpoint), '-o', str(tmp_path / 'out'), *flags])
    said = capsys.readouterr().out
    assert ("the detector's own file; cfg.merge_from_file(" in said) == (not base)


@pytest.mark.parametrize(
    'dataset, words',
    [
        ('', 'DATA --model'),
        ('keepaug/cluttered-digits', 'validate.py --dataset keepaug/cluttered-digits --model'),
        ('keepaug/cub', 'DATA --dataset keepaug/cub --model'),
    ],
)
def test_the_command_that_validates_names_the_data_and_can_be_pasted(dataset, words, tmp_path, capsys):
    model = create('test_resnet', num_classes=3)
    path = save(tmp_path / 'last.pth.tar', model, 'test_resnet', dataset=dataset)
    command.main(['timm', str(path), '-o', str(tmp_path / "an o'ut")])
    line = capsys.readouterr().out.splitlines()[-1]
    assert words in line and shlex.split(line)[-1] == f"local-dir:{tmp_path}/an o'ut"
