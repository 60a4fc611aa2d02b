"""An early head in training: the loss, and checkpoints that plain runs and stock's tools can use."""

import copy
from argparse import Namespace

import pytest
import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.task import ClassificationTask, LogitDistillationTask, TokenDistillationTask
from timm.utils import unwrap_model

import keepaug
from keepaug import options
from keepaug.methods import EarlyExitMethod
from keepaug.training.early_exit_task import EarlyExitTask, PlainOptimizer, load_early_exit, split_groups
from keepaug.training.schedule import build_optimizer
from keepaug.training.wrapped_task import innermost_task
from tests.scripts import TINY, refuse_train, run_train


def parse(flags=''):
    args = keepaug.prepare(options.create_parser().parse_args(f'/data {TINY} {flags}'.split()))
    args.rank = 0
    return args


def create_task(flags='--early-exit', criterion=None):
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=3)
    task = ClassificationTask(model, criterion=criterion or LabelSmoothingCrossEntropy(0.1), verbose=False)
    return keepaug.wrap_task(task, parse(flags)).train()


def batch():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])


def test_loss_is_main_plus_weighted_early():
    task = create_task('--early-exit --early-exit-weight 0.7')
    x, target = batch()
    result = task(x, target)
    logits, early = task.get_trainable_module()(x)
    criterion = LabelSmoothingCrossEntropy(0.1)
    torch.testing.assert_close(result['output'], logits)
    torch.testing.assert_close(result['early_loss'], criterion(early, target))
    torch.testing.assert_close(result['loss'], criterion(logits, target) + 0.7 * criterion(early, target))


def test_soft_targets_reach_the_early_head_too():
    task = create_task('--early-exit --keep-cut cutmix')
    hard, used = innermost_task(task).criterion.hard, []
    hard.register_forward_hook(lambda *_: used.append(1))
    assert type(hard) is LabelSmoothingCrossEntropy and task(*batch())['early_loss'].isfinite()
    assert not used


@pytest.mark.parametrize('form', [Namespace, dict])
def test_a_loaded_head_stands_where_the_run_had_it(form):
    head = keepaug.EarlyExit(timm.create_model('test_resnet', num_classes=3), stage='layer3').head.state_dict()
    checkpoint = {'args': form(early_exit_stage='layer3'), 'task_state': {'early_exit': head}}
    loaded = load_early_exit(timm.create_model('test_resnet', num_classes=3), checkpoint, 'last.pth.tar')
    assert loaded.early_classifier().place == 'layer3'


def test_eval_is_the_backbones():
    task = create_task().eval()
    x, target = batch()
    backbone = unwrap_model(task.get_trainable_module()).backbone
    assert torch.equal(task.get_eval_model()(x), backbone(x))
    assert torch.equal(task(x, target)['output'], backbone(x))


@pytest.mark.parametrize('opt', ['sgd', 'adamw', 'lookahead_adamw', 'lamb', 'muon'])
def test_checkpoints_hold_the_plain_model_and_optimizer(opt):
    """`state_dict` and `optimizer` are what a run without the head would save, in order and shape, and load there."""
    args = parse(f'--early-exit --opt {opt}')
    task = create_task()
    optimizer = build_optimizer(args, task)
    plain_task = create_task('')
    plain_optimizer = build_optimizer(args, plain_task)
    for some_task, some_optimizer in ((task, optimizer), (plain_task, plain_optimizer)):
        some_task(*batch())['loss'].backward()
        some_optimizer.step()
    saved = PlainOptimizer(task, task.optimizer).state_dict()
    expected = plain_optimizer.state_dict()
    assert [group['params'] for group in saved['param_groups']] == [
        group['params'] for group in expected['param_groups']
    ]
    assert shapes(saved) == shapes(expected)
    plain_optimizer.load_state_dict(saved)
    plain_task.load_checkpoint_state(task.get_checkpoint_state()['state_dict'])
    state = task.get_task_state()
    assert set(state) == {'early_exit', 'early_exit_optimizer'}
    assert shapes(state['early_exit_optimizer']).keys() == {max(shapes(expected)) + 1, max(shapes(expected)) + 2}


def shapes(state):
    return {
        index: {name: getattr(value, 'shape', None) for name, value in entry.items()}
        for index, entry in state['state'].items()
    }


def test_head_and_its_optimizer_resume():
    args = parse('--early-exit --opt adamw')
    first, second = create_task(), create_task()
    optimizers = [build_optimizer(args, task) for task in (first, second)]
    first(*batch())['loss'].backward()
    optimizers[0].step()
    plain = PlainOptimizer(first, first.optimizer)
    checkpoint = copy.deepcopy({**first.get_checkpoint_state(), 'optimizer': plain.state_dict()})
    second.load_checkpoint_state(checkpoint['state_dict'], checkpoint['task_state'])
    PlainOptimizer(second, second.optimizer).load_state_dict(checkpoint['optimizer'])
    for task, optimizer in zip((first, second), optimizers):
        optimizer.zero_grad()
        task(*batch())['loss'].backward()
        optimizer.step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            first.get_trainable_module().state_dict().values(), second.get_trainable_module().state_dict().values()
        )
    )


def test_a_plain_checkpoint_leaves_the_head_fresh():
    task = create_task()
    head = task.get_task_state()['early_exit']['weight'].clone()
    optimizer = build_optimizer(parse('--early-exit'), task)
    plain = create_task('')
    plain_optimizer = build_optimizer(parse(), plain)
    plain(*batch())['loss'].backward()
    plain_optimizer.step()
    task.load_checkpoint_state(plain.get_checkpoint_state()['state_dict'], None)
    PlainOptimizer(task, task.optimizer).load_state_dict(plain_optimizer.state_dict())
    assert torch.equal(task.get_task_state()['early_exit']['weight'], head)
    assert not split_groups(optimizer.state_dict())[1]['state']
    assert split_groups(optimizer.state_dict())[0]['state']


def test_average_holds_the_head_and_saves_it_apart():
    task = create_task()
    task.setup_ema(decay=0.5)
    with torch.no_grad():
        task.get_trainable_module().head.weight.add_(1)
    before = task.get_task_state(ema=True)['early_exit']['weight'].clone()
    task.update_ema()
    after = task.get_task_state(ema=True)['early_exit']['weight']
    torch.testing.assert_close(after, before + 0.5)
    state = task.get_checkpoint_state(ema=True)
    timm.create_model('test_resnet', num_classes=3).load_state_dict(state['state_dict_ema'])
    assert set(state['task_state_ema']) == {'early_exit'}


def test_clipping_leaves_both_heads_out():
    task = create_task()
    module = task.get_trainable_module()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    clipped = {names[id(parameter)] for parameter in task.get_clip_parameters(exclude_head=True)}
    assert set(names.values()) - clipped == {'head.weight', 'head.bias', 'backbone.fc.weight', 'backbone.fc.bias'}
    assert len(list(task.get_clip_parameters())) == len(names)


@pytest.mark.parametrize('kind', ['logit', 'token'])
def test_beside_distillation(kind):
    teacher = timm.create_model('test_resnet', num_classes=3)
    if kind == 'logit':
        task = LogitDistillationTask(timm.create_model('test_resnet', num_classes=3), teacher, verbose=False)
    else:
        student = timm.create_model('deit_tiny_distilled_patch16_224', img_size=32, depth=4, num_classes=3)
        task = TokenDistillationTask(student, teacher, verbose=False)
    task = EarlyExitTask(task).train()
    result = task(*batch())
    result['loss'].backward()
    assert {'early_loss', 'task_loss'} < set(result) and result['output'].shape == (6, 3)
    assert all(parameter.grad is not None for parameter in task.get_trainable_module().parameters())


def test_default_saliency_adds_a_head_where_only_the_first_layers_run_low():
    model = timm.create_model('test_resnet', num_classes=3)
    forward = model.forward

    def fixed_size(x):
        if x.shape[-1] != 32:
            raise RuntimeError('built for 32 px')
        return forward(x)

    model.forward = fixed_size
    task = EarlyExitMethod().wrap_task(ClassificationTask(model, verbose=False), parse('--keep-cut --keep-size 8'))
    assert isinstance(task, EarlyExitTask)
    task = ClassificationTask(model, verbose=False)
    assert EarlyExitMethod().wrap_task(task, parse('--keep-cut --keep-size 8 --manifold-mixup')) is task, (
        'mixes behind the head'
    )
    task = ClassificationTask(timm.create_model('test_resnet', num_classes=3), verbose=False)
    assert EarlyExitMethod().wrap_task(task, parse('--keep-cut --keep-size 8')) is task


@pytest.mark.parametrize('flags', ['--early-exit', '--keep-cut --keep-size 8 --keep-saliency low-early --model-ema'])
def test_stock_loads_and_resumes_the_checkpoint(flags, data, tmp_path):
    run = run_train(f'{data} {TINY} {flags}', tmp_path)
    model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(run / 'last.pth.tar'))
    assert model.num_classes == 3
    for more, experiment in (('', 'plain'), ('--early-exit', 'run')):
        run_train(f'{data} {TINY} --epochs 3 {more} --resume {run}/last.pth.tar', tmp_path, experiment)
        state = torch.load(tmp_path / experiment / 'last.pth.tar', weights_only=False)
        assert state['epoch'] == 2 and ('task_state' in state) == bool(more)


def test_resume_says_what_does_not_fit(data, tmp_path, capsys, caplog):
    run = run_train(f'{data} {TINY} --early-exit', tmp_path)
    more = f'{data} {TINY} --epochs 3 --resume {run}/last.pth.tar'
    assert '--early-exit-stage' in refuse_train(f'{more} --early-exit --early-exit-stage layer2', tmp_path, capsys)
    assert 'an optimizer other than --opt adamw' in refuse_train(f'{more} --opt adamw', tmp_path, capsys)
    with caplog.at_level('INFO'):
        plain = run_train(more, tmp_path, 'plain')
        run_train(f'{data} {TINY} --epochs 4 --early-exit --resume {plain}/last.pth.tar', tmp_path, 'again')
    assert any('early head of the checkpoint is dropped' in line for line in caplog.messages)
    assert any('starts from scratch' in line for line in caplog.messages)


@pytest.mark.parametrize(
    'flags, sentence',
    [
        ('--early-exit-weight -1', '--early-exit-weight must be above 0'),
        ('--early-exit --early-exit-stage nine', 'stage nine is not a stage of ResNet: choose'),
        ('--early-exit --torchscript', 'drop one of the two'),
        (
            '--keep-cut --keep-saliency early --kd-model-name resnet18 --kd-distill-type feature',
            'choose logit or token',
        ),
    ],
)
def test_refusals(flags, sentence, data, tmp_path, capsys):
    assert sentence in refuse_train(f'{data} {TINY} {flags}', tmp_path, capsys)
