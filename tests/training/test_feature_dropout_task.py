"""Features dropped inside the model of a task, at a probability that rises."""

import pytest
import timm
import torch
from timm.task import ClassificationTask

from keepaug.augment import Compose, create_augment
from keepaug.training import set_progress
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.early_exit_task import EarlyExitTask
from keepaug.training.feature_dropout_task import FeatureDropoutTask
from tests.scripts import TINY, refuse_train, run_train


def inner(**settings):
    torch.manual_seed(0)
    return ClassificationTask(timm.create_model('test_resnet', num_classes=3, **settings), verbose=False)


def test_a_constant_probability_holds_from_the_beginning():
    task = FeatureDropoutTask(inner(), 'spatial', prob=0.3)
    assert task.dropping.prob.item() == pytest.approx(0.3)
    task.train()
    x, target = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    losses = {task(x, target)['loss'].item() for _ in range(3)}
    assert len(losses) == 3
    task.eval()
    assert torch.equal(task.get_eval_model()(x), task.get_eval_model()(x))


@pytest.mark.parametrize('ramp, probs', [(1.0, [0, 0.1, 0.2, 0.3, 0.4]), (0.5, [0, 0.2, 0.4, 0.4, 0.4])])
@pytest.mark.parametrize(
    'outside',
    [
        lambda task: task,
        lambda task: AugmentedTask(task, Compose([create_augment('cutout', size=4)])),
        lambda task: AugmentedTask(EarlyExitTask(task), Compose([create_augment('grid-mask', ramp=0.5)])),
    ],
)
def test_it_rises_whatever_is_around_it(outside, ramp, probs):
    dropping = FeatureDropoutTask(inner(), 'dropout', prob=0.4, ramp=ramp)
    task, found = outside(dropping), []
    for epoch in range(5):
        set_progress(task, epoch, 5)
        found.append(dropping.dropping.prob.item())
    assert found == pytest.approx(probs)


def test_the_early_head_is_left_alone():
    early = EarlyExitTask(inner())
    FeatureDropoutTask(early, 'dropblock', prob=0.3, block=2)
    assert all(not part._forward_hooks for part in early.get_trainable_module().head.modules())


def test_script(data, tmp_path, caplog, capsys):
    caplog.set_level('INFO')
    run = run_train(
        f'{data} {TINY} --feature-dropout dropblock --feature-dropout-block 2 --feature-dropout-ramp 1 --model-ema '
        '--keep-cut --keep-size 8',
        tmp_path,
    )
    assert 'dropblock, squares of 2 x 2 places, probability 0.1, rising over 100% of the epochs' in caplog.text
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    assert state.keys() == timm.create_model('test_resnet', num_classes=3).state_dict().keys()
    said = refuse_train(f'{data} {TINY} --model test_vit --feature-dropout spatial', tmp_path, capsys)
    assert (
        '--feature-dropout spatial is not possible: VisionTransformer has no convolutions in its last two stages'
        in said
    )
    distilled = '--feature-dropout spatial --kd-model-name test_resnet --kd-distill-type feature'
    said = refuse_train(f'{data} {TINY} {distilled}', tmp_path, capsys)
    assert all(part in said for part in ('--feature-dropout spatial', '--kd-distill-type feature', 'logit or token'))
