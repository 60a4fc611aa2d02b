"""No run starts from other weights than it says: files of weights of its model and of its teachers."""

import os
from argparse import Namespace
from pathlib import Path
from unittest import mock

import pytest
import timm
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from keepaug.methods.attentive_cutmix import PAPERS_TEACHER, build_teacher
from keepaug.models import loading
from keepaug.options import create_parser, parse_options, prepare
from keepaug.training import build_model, build_task
from tests.scripts import TINY, refuse_train
from tests.sentences import says


@pytest.fixture
def written(tmp_path):
    """Checkpoints as runs write them, by the name of their model."""

    def write(model: str, number: int = 3, **args) -> str:
        torch.manual_seed(1)
        net = timm.create_model(model, num_classes=number, **args.get('model_kwargs', {}))
        path = str(tmp_path / f'{model}-{number}.pth.tar')
        run = Namespace(model=model, num_classes=number, **args)
        torch.save({'arch': model, 'args': run, 'state_dict': net.state_dict()}, path)
        return path

    return write


def build(*flags: str):
    args = prepare(create_parser().parse_args(['--model', 'test_resnet', '--num-classes', '3', *flags]))
    args.rank = 0
    return build_model(args, timm.create_model)[0]


def test_pretrained_weights_come_from_the_file(written):
    path = written('test_resnet', 7)
    model, held = build('--pretrained', '--pretrained-path', path), torch.load(path, weights_only=False)['state_dict']
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in held.items() if not name.startswith('fc.'))


def test_those_of_another_network_are_refused(written):
    path = written('test_vit')
    with pytest.raises(
        ValueError, match=f'--pretrained-path {path} belongs to another network than --model test_resnet: '
    ):
        build('--pretrained', '--pretrained-path', path)


def test_a_file_that_is_not_read_is_said(written, caplog):
    build('--pretrained-path', written('test_resnet'))
    assert any('has no effect without --pretrained' in message for message in caplog.messages)


def test_a_few_that_are_missing_are_said(written, caplog):
    path = written('test_resnet')
    held = torch.load(path, weights_only=False)
    del held['state_dict']['conv1.0.weight']
    torch.save(held, path)
    build('--pretrained', '--pretrained-path', path)
    assert any('lacks 1 of the' in message and 'conv1.0.weight' in message for message in caplog.messages)


@pytest.mark.parametrize('flags', ['--initial-checkpoint {}', '--pretrained --pretrained-path {}', '--resume {}'])
@pytest.mark.parametrize('state', [{}, {'conv1.0.weight': 'text'}, None])
@pytest.mark.parametrize('check', ['', ' --check'])
def test_no_weights_are_refused(check, state, flags, data, tmp_path, capsys):
    path = tmp_path / 'last.pth.tar'
    torch.save({'state_dict': state, 'epoch': 1}, path)
    said = refuse_train(f'{data} {TINY} {flags.format(path)}{check}', tmp_path, capsys)
    assert f'{flags.split()[-2]} {path} is refused: it holds' in said and 'state_dict' in said


def test_a_distillation_takes_its_teacher_from_the_file(written, data):
    path = written('test_resnet', model_kwargs=dict(act_layer='silu'), mean=(0.1, 0.2, 0.3))
    flags = ['--model', 'test_resnet', '--num-classes', '3', '--kd-pretrained-path', path]
    args = prepare(create_parser().parse_args(flags))
    assert args.kd_model_name == 'test_resnet' and prepare(args).kd_model_name == 'test_resnet'
    args.rank = 0
    student = timm.create_model('test_resnet', num_classes=3)
    task = build_task(args, student, torch.device('cpu'), torch.float32)
    teacher, held = task.teacher.model, torch.load(path, weights_only=False)['state_dict']
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in held.items())
    assert any(isinstance(module, torch.nn.SiLU) for module in teacher.modules())
    assert task.teacher.mean_kd.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert not teacher.training


def test_a_teacher_of_other_classes_is_refused(written, data, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --kd-pretrained-path {written("test_resnet", 5)}', tmp_path, capsys)
    assert '--kd-model-name test_resnet' in said and 'mismatch' in said


def test_who_attends_is_what_its_checkpoint_says(written):
    path = written('test_resnet', img_size=64)
    asked = Namespace(attentive_teacher=PAPERS_TEACHER, attentive_teacher_checkpoint=path)
    teacher, data_config = build_teacher(asked, 3)
    assert teacher.pretrained_cfg['architecture'] == 'test_resnet' and data_config['input_size'] == (3, 64, 64)
    asked.attentive_teacher = 'test_vit'  # which wins, and does not fit
    with pytest.raises(
        ValueError, match=f'--attentive-teacher-checkpoint {path} does not fit --attentive-teacher test_vit'
    ):
        build_teacher(asked, 3)


def test_a_teacher_that_was_typed_is_not_replaced(written, tmp_path):
    flags = ['--attentive-cutmix', '--attentive-teacher-checkpoint']
    other, same = written('test_resnet'), str(tmp_path / 'same.pth.tar')
    torch.save({'args': Namespace(model=f'{PAPERS_TEACHER}.a1_in1k'), 'state_dict': {'weight': torch.ones(1)}}, same)
    with pytest.raises(ValueError) as refused:
        prepare(parse_options(create_parser(), [*flags, other, '--attentive-teacher', PAPERS_TEACHER]))
    says(str(refused.value), other, 'test_resnet', f'--attentive-teacher {PAPERS_TEACHER}')
    prepare(parse_options(create_parser(), [*flags, same, '--attentive-teacher', PAPERS_TEACHER]))
    prepare(parse_options(create_parser(), [*flags, other]))


@pytest.mark.parametrize('reached', [True, False])
def test_the_hub_is_tried_once(reached, monkeypatch):
    tries = []

    class Connection:
        def close(self) -> None:
            pass

    def connect(address, timeout):
        tries.append(timeout)
        if not reached:
            raise OSError('no network')
        return Connection()

    monkeypatch.setattr(loading, 'getproxies', dict)
    monkeypatch.setattr(hub, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(loading.socket, 'create_connection', connect)
    with loading.one_short_try():
        assert hub.HF_HUB_OFFLINE is not reached
    assert hub.HF_HUB_OFFLINE is False and tries == [loading.PATIENCE] and loading.PATIENCE <= 5
    with loading.one_short_try(wanted=False):
        assert hub.HF_HUB_OFFLINE is False and len(tries) == 1


@pytest.mark.parametrize('name', ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'])
def test_what_a_proxy_may_reach_is_not_tried(name, monkeypatch):
    for other in [other for other in os.environ if other.lower().endswith('_proxy')]:
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, 'http://localhost:9')
    monkeypatch.setattr(hub, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(loading.socket, 'create_connection', mock.Mock(side_effect=OSError('no network')))
    assert loading.is_hub_reachable() and not loading.socket.create_connection.called


@pytest.mark.parametrize('suffix', ['.pth.tar', '.safetensors'])
@pytest.mark.parametrize(
    'flags',
    [
        '--resume',
        '--initial-checkpoint',
        '--pretrained --pretrained-path',
        '--kd-model-name test_resnet --kd-pretrained-path',
        '--kd-pretrained-path',
        '--attentive-cutmix --attentive-teacher-checkpoint',
    ],
)
def test_a_file_that_is_cut_short_does_not_pass_a_check(flags, suffix, written, data, tmp_path, capsys):
    path = tmp_path / f'short{suffix}'
    if suffix == '.safetensors':
        save_file({'a': torch.ones(1000)}, path)
    else:
        path.write_bytes(Path(written('test_resnet')).read_bytes())
    path.write_bytes(path.read_bytes()[:-600])
    said = refuse_train(f'{data} {TINY} --check {flags} {path}', tmp_path, capsys)
    assert f'{flags.split()[-1]} {path} ' in said and ('truncated' in said or 'no checkpoint of a training run' in said)
