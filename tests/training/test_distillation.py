"""The three distillation tasks, with teachers made here."""

import pytest
import timm
import torch
from timm.task import FeatureDistillationTask, LogitDistillationTask, TokenDistillationTask

from tests.scripts import TINY, refuse_train, run_train

TOKEN = '--model deit_tiny_distilled_patch16_224 --model-kwargs depth=1 embed_dim=32 num_heads=2'
KINDS = {
    'logit': (LogitDistillationTask, ''),
    'feature': (FeatureDistillationTask, '--kd-distill-type feature'),
    'token': (TokenDistillationTask, f'--kd-distill-type token {TOKEN}'),
    'token-hard': (TokenDistillationTask, f'--kd-distill-type token --kd-token-distill-type hard {TOKEN}'),
}


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def tasks(monkeypatch):
    """The tasks that trained, with what each step returned."""
    seen = []

    def watch(task_class):
        forward = task_class.forward

        def watched(self, input, target):
            result = forward(self, input, target)
            seen.append((self, {name: value.detach() for name, value in result.items()}))
            assert not any(module.training for module in self.teacher.modules())
            return result

        monkeypatch.setattr(task_class, 'forward', watched)

    for task_class in {task_class for task_class, _ in KINDS.values()}:
        watch(task_class)
    return seen


BESIDE = (
    '',
    '--model-ema --no-prefetcher',
    '--mixup 0.2 --cutmix 1',
    '--amp --amp-dtype bfloat16',
    '--channels-last',
    '--keep-cut --cutmix 1',
    '--keep-cut --keep-saliency full --keep-size 8',
)


@pytest.mark.parametrize(
    'kind, flags',
    [
        pytest.param(kind, flags, marks=() if flags in BESIDE[:2] or kind == 'feature' else pytest.mark.slow)
        for kind in KINDS
        for flags in BESIDE
    ],
)
def test_trains_and_resumes(kind, flags, data, teacher, tasks, tmp_path):
    task_class, distill = KINDS[kind]
    flags = f'{data} {TINY} --kd-model-name test_resnet --kd-pretrained-path {teacher} {distill} {flags} --resume auto'
    run_train(f'{flags} --epochs 2 --stop-epoch 1', tmp_path)
    run = run_train(f'{flags} --epochs 2', tmp_path)
    assert len((run / 'summary.csv').read_text().splitlines()) == 3
    assert {type(task) for task, _ in tasks} == {task_class} and len(tasks) == 6
    wanted = torch.load(teacher)
    for name, weight in tasks[-1][0].teacher.model.state_dict().items():
        assert torch.equal(weight, wanted[name]), f'the teacher changed: {name}'


@pytest.mark.parametrize(
    'given, label, imitation',
    [
        ('', 1.0, 1.0),
        ('--distill-loss-weight 3', 1.0, 3.0),
        ('--task-loss-weight 0.3', 0.3, 0.7),
        ('--task-loss-weight 0.3 --distill-loss-weight 3', 0.3, 3.0),
    ],
)
def test_weights(given, label, imitation, data, teacher, tasks, tmp_path):
    run_train(f'{data} {TINY} --epochs 1 --kd-model-name test_resnet --kd-pretrained-path {teacher} {given}', tmp_path)
    for _, result in tasks:
        assert result['loss'] == pytest.approx(float(label * result['task_loss'] + imitation * result['kd_loss']))


def test_features_of_another_width_are_projected(data, teacher, tasks, tmp_path):
    run = run_train(
        f'{data} {TINY} --model test_vit --epochs 1 --kd-model-name test_resnet --kd-pretrained-path {teacher} '
        '--kd-distill-type feature',
        tmp_path,
    )
    checkpoint = torch.load(run / 'last.pth.tar', weights_only=False)
    assert 'projection' in checkpoint['task_state']
    timm.create_model('test_vit', num_classes=3, img_size=32).load_state_dict(checkpoint['state_dict'])


def test_a_folder_may_be_the_teacher(data, tmp_path, tasks):
    model = timm.create_model('test_resnet', num_classes=3)
    timm.models.save_for_hf(model, tmp_path / 'teacher', safe_serialization=True)
    run_train(f'{data} {TINY} --epochs 1 --kd-model-name local-dir:{tmp_path}/teacher', tmp_path)
    assert torch.equal(tasks[-1][0].teacher.model.fc.weight, model.fc.weight)


def test_a_teacher_that_cannot_be_downloaded(data, tmp_path, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    said = refuse_train(f'{data} {TINY} --kd-model-name test_resnet', tmp_path, capsys)
    assert '--kd-model-name test_resnet' in said and '--kd-pretrained-path' in said
    said = refuse_train(f'{data} {TINY} --pretrained', tmp_path, capsys)
    assert '--model test_resnet' in said and '--pretrained-path' in said


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--kd-model-name resnet5O', ['--kd-model-name resnet5O', 'resnet50']),
        ('--kd-model-name test_resnet --kd-distill-type token', ['--model test_resnet', 'token']),
        ('--kd-model-name test_resnet --kd-pretrained-path {other}', ['--kd-model-name test_resnet', 'fc.weight']),
        ('--kd-model-name test_resnet --kd-pretrained-path /no/such/file', ['--kd-pretrained-path /no/such/file']),
    ],
)
def test_refusals(flags, words, data, tmp_path, capsys):
    other = tmp_path / 'other.pth'
    torch.save(timm.create_model('test_resnet', num_classes=4).state_dict(), other)
    path = '' if '--kd-pretrained-path' in flags or 'resnet5O' in flags else f'--kd-pretrained-path {other}'
    said = refuse_train(f'{data} {TINY} {flags.format(other=other)} {path}', tmp_path, capsys)
    assert all(word in said for word in words), said
