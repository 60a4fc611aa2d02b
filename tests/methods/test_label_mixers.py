"""Label mixers in a run: the teacher, the schedule, and what a task makes of mixed labels."""

import types

import pytest
import timm
import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.resnet import BasicBlock, ResNet
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask

import keepaug
from keepaug import options
from keepaug.methods import attentive_cutmix
from keepaug.methods.attentive_cutmix import build_teacher
from keepaug.training.task import set_progress, stop_mixing
from tests.scripts import TINY, refuse_train, run_train

FLAGS = [
    '--attentive-cutmix --attentive-teacher self --attentive-teacher-size 64',
    '--cutmix-variant one-hot',
    '--feature-cutmix',
    '--manifold-mixup 1,2',
]


def _args(line: str):
    return keepaug.prepare(options.create_parser().parse_args(f'/data {TINY} {line}'.split()))


def _task(line: str, criterion=None) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3)
    task = ClassificationTask(model, criterion=criterion or LabelSmoothingCrossEntropy(0.1), verbose=False)
    return keepaug.wrap_task(task, _args(line)).train(), model


@pytest.fixture
def checkpoint(tmp_path):
    """A run's checkpoint of a network trained on 5 classes."""
    path = tmp_path / 'teacher.pth.tar'
    torch.save(dict(state_dict=timm.create_model('test_resnet', num_classes=5).state_dict(), epoch=3), path)
    return path


# The teacher.


def test_teacher_from_a_checkpoint_of_other_classes(checkpoint):
    args = _args(f'--attentive-cutmix --attentive-teacher test_resnet --attentive-teacher-checkpoint {checkpoint}')
    teacher, _ = build_teacher(args, channels=3)
    weights = torch.load(checkpoint)['state_dict']
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize('name', ['test_efficientnet', 'resnet10t'])
def test_checkpoint_of_another_model(name, checkpoint):
    args = _args(f'--attentive-cutmix --attentive-teacher {name} --attentive-teacher-checkpoint {checkpoint}')
    with pytest.raises(ValueError, match=f'teacher.pth.tar does not fit --attentive-teacher {name}'):
        build_teacher(args, channels=3)


@pytest.mark.parametrize('saved, named', [(1, 2), (2, 1)])
def test_checkpoint_of_a_sibling(saved, named, tmp_path):
    """All weights that both have are of the same shapes."""
    other, teacher = (ResNet(BasicBlock, [1, 1, 1, blocks], num_classes=2) for blocks in (saved, named))
    path = tmp_path / 'other.pth'
    torch.save(other.state_dict(), path)
    teacher.pretrained_cfg = dict(classifier='fc')
    with pytest.raises(ValueError, match='only one of the two'):
        attentive_cutmix._load_weights(teacher, 'teacher', str(path))


def test_checkpoint_whose_classifier_is_more_than_one_layer(tmp_path):
    """LeViT's has a batch norm before the layer that timm names."""
    path = tmp_path / 'levit.pth'
    weights = timm.create_model('levit_128s', num_classes=5).state_dict()
    torch.save(weights, path)
    args = _args(f'--attentive-cutmix --attentive-teacher levit_128s --attentive-teacher-checkpoint {path}')
    teacher, _ = build_teacher(args, channels=3)
    assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit'])
def test_teacher_sees_images_as_the_run_that_trained_it(name, data, tmp_path):
    """Size and normalisation are those of the run, not those its architecture was once pretrained with."""
    statistics = '--mean 0.1 0.2 0.3 --std 0.4 0.5 0.6'
    run = run_train(
        f'{data} {TINY.replace("test_resnet", name)} --epochs 1 --img-size 48 {statistics}', tmp_path, 'teacher'
    )
    task, _ = _task(
        f'{statistics} --attentive-cutmix --attentive-teacher {name} '
        f'--attentive-teacher-checkpoint {run / "last.pth.tar"}'
    )
    mixer = task.augment.augments[0]
    assert mixer.teacher_size == (48, 48)
    assert mixer.rescaling is None, 'both were told the same'


def test_file_that_is_no_checkpoint(data, tmp_path, capsys):
    path = tmp_path / 'no.pth'
    path.write_bytes(b'no')
    said = refuse_train(
        f'{data} {TINY} --attentive-cutmix --attentive-teacher test_resnet --attentive-teacher-checkpoint {path}',
        tmp_path,
        capsys,
    )
    assert '--attentive-teacher-checkpoint' in said


def test_download_that_fails_is_a_sentence_before_training(data, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError('The hub is out of reach. Check your connection.\nmore')

    monkeypatch.setattr(attentive_cutmix.timm, 'create_model', fail)
    said = refuse_train(f'{data} {TINY} --attentive-cutmix --attentive-teacher resnet18', tmp_path, capsys)
    assert '--attentive-teacher resnet18 cannot be loaded (The hub is out of reach)' in said and 'self' in said
    assert not (tmp_path / 'run').exists()


def test_teacher_shows_up_nowhere_in_the_run(data, checkpoint, tmp_path):
    """Student of another family; not in state dict, average, optimizer or checkpoint."""
    teacher = f'--attentive-cutmix --attentive-teacher test_resnet --attentive-teacher-checkpoint {checkpoint}'
    saved = []
    for name, flags in (('with', teacher), ('without', '--cutmix 1')):
        run = run_train(
            f'{data} {TINY.replace("test_resnet", "test_efficientnet")} --epochs 1 --model-ema {flags}', tmp_path, name
        )
        saved.append(torch.load(run / 'last.pth.tar', weights_only=False))
    assert saved[0].keys() == saved[1].keys()
    for part in ('state_dict', 'state_dict_ema'):
        assert saved[0][part].keys() == saved[1][part].keys()
    assert len(saved[0]['optimizer']['state']) == len(saved[1]['optimizer']['state'])


def test_teacher_stays_frozen_in_eval_mode_while_the_task_trains(checkpoint):
    task, model = _task(
        f'--attentive-cutmix --attentive-teacher test_resnet --attentive-teacher-checkpoint {checkpoint}'
    )
    mixer = task.augment.augments[0]
    before = {name: value.clone() for name, value in mixer.teacher.state_dict().items()}
    assert mixer.teacher_size == (160, 160), "the teacher's own"
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt='sgd', lr=0.1)
    model.conv1[0].weight.requires_grad = False
    for _ in range(2):
        task(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))['loss'].backward()
        optimizer.step()
    assert not any(module.training for module in mixer.teacher.modules())
    assert all(torch.equal(value, before[name]) for name, value in mixer.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in mixer.teacher.parameters())
    assert not model.conv1[0].weight.requires_grad and model.conv1[0].weight.grad is None
    assert not {id(p) for p in mixer.teacher.parameters()} & {id(p) for p in task.parameters()}


def test_teacher_of_another_normalisation(checkpoint):
    task, _ = _task(
        '--mean 0.1 0.2 0.3 --std 0.5 0.5 0.5 --attentive-cutmix --attentive-teacher test_resnet '
        f'--attentive-teacher-checkpoint {checkpoint}'
    )
    mixer = task.augment.augments[0]
    mean, std = (torch.tensor(mixer.teacher.pretrained_cfg[name]) for name in ('mean', 'std'))
    scale, shift = (values.flatten() for values in mixer.rescaling)
    torch.testing.assert_close(scale, 0.5 / std)
    torch.testing.assert_close(shift, (torch.tensor([0.1, 0.2, 0.3]) - mean) / std)


# The schedule.


def test_schedule_grows_from_the_first_epoch_to_the_last(data, tmp_path, monkeypatch):
    shares = []
    applied_share = keepaug.augment.CutMixVariant.applied_share
    monkeypatch.setattr(
        keepaug.augment.CutMixVariant, 'applied_share', lambda self: shares.append(applied_share(self)) or shares[-1]
    )
    run_train(f'{data} {TINY} --epochs 3 --cutmix-variant scheduled --mixup-prob 0.8', tmp_path)
    assert shares == [0.0] * 3 + [0.4] * 3 + [0.8] * 3


def test_progress_of_a_plain_task_and_of_one_epoch():
    set_progress(ClassificationTask(timm.create_model('test_resnet'), verbose=False), 0, 1)
    task, _ = _task('--cutmix-variant scheduled')
    set_progress(task, 0, 1)
    assert task.augment.augments[0].applied_share() == 0.0


# The task.

ONE, ODD, SOFT = torch.tensor([2]), torch.tensor([0, 1, 2, 0, 1]), torch.eye(3)[[0, 1, 2, 0]]


@pytest.mark.parametrize('flags', FLAGS)
@pytest.mark.parametrize(
    'criterion, target',
    [
        (LabelSmoothingCrossEntropy(0.1), ODD),
        (BinaryCrossEntropy(0.1), ODD),
        (torch.nn.CrossEntropyLoss(), ONE),
        (SoftTargetCrossEntropy(), SOFT),
    ],
)
def test_criteria_and_targets(flags, criterion, target):
    task, model = _task(flags, criterion)
    loss = task(torch.randn(len(target), 3, 64, 64), target)['loss']
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize('flags', FLAGS)
def test_mixing_stops(flags):
    task, _ = _task(flags)
    seen = []
    inner = task.task.forward
    task.task.forward = types.MethodType(lambda self, x, target: seen.append(target) or inner(x, target), task.task)
    x, target = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    task(x, target)
    stop_mixing(types.SimpleNamespace(), None, task)
    task(x, target)
    assert seen[0].ndim == 2 and seen[1] is target


@pytest.mark.parametrize('flags, stages', [('--feature-cutmix', None), ('--manifold-mixup 0,2', (0, 2))])
def test_alpha_comes_from_stocks_flag(flags, stages):
    for given, alpha in (('', 1.0), ('--cutmix 0.5' if 'cutmix' in flags else '--mixup 0.5', 0.5)):
        task, _ = _task(f'{flags} {given}')
        mixer = task.augment.augments[0]
        assert (mixer.alpha, mixer.stages) == (alpha, stages)


def test_model_without_stages_is_refused_before_training(data, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --feature-cutmix 9', tmp_path, capsys)
    assert 'must be among 0, 1, 2, 3, 4, 5' in said and not (tmp_path / 'run').exists()
