"""Training on labelled and unlabelled images in one batch."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import ClassificationTask
from torch import Tensor, nn

from keepaug.augment import Compose, Cutout, KeepPaste, Policy
from keepaug.functional import input_saliency
from keepaug.training import consistency_task
from keepaug.training.consistency_task import AnnealedCrossEntropy, ConsistencyTask
from keepaug.training.early_exit_task import EarlyExitTask
from keepaug.training.task import augmented_part, weaken
from tests.functional.test_consistency import slow_consistency

SIZE = 16


def small_cnn() -> nn.Module:
    """Rows do not depend on each other."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.Flatten(), nn.Linear(8 * 49, 3)
    )


def make_task(augments=(), ratio: int = 2, model: nn.Module | None = None, **settings) -> ConsistencyTask:
    task = ClassificationTask(model or small_cnn(), verbose=False, criterion=nn.CrossEntropyLoss())
    return ConsistencyTask(task, Compose([*augments] or [Policy()]), ratio, **settings).train()


def make_batch(labelled: int = 3, ratio: int = 2) -> tuple[Tensor, Tensor]:
    """Labels as the prefetcher gives them, one for each row; those of unlabelled rows are out of any range."""
    generator = torch.Generator().manual_seed(0)
    input = torch.randn(labelled * (1 + 2 * ratio), 3, SIZE, SIZE, generator=generator)
    target = torch.full((len(input),), -1000)
    target[:labelled] = torch.arange(labelled) % 3
    return input, target


def test_one_forward_and_the_loss_of_a_slow_reference():
    task, (input, target) = make_task(weight=0.7, temperature=0.5, threshold=0.36), make_batch()
    seen = []
    task.get_trainable_module().register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    result = task(input, target)
    assert len(seen) == 1 and torch.equal(seen[0], input)  # labelled, clean, augmented, in one batch
    logits = result['output']
    wanted, confident = slow_consistency(logits[3:9], logits[9:], 0.5, 0.36)
    assert 0 < sum(confident) < 6
    supervised = F.cross_entropy(logits[:3], target[:3])
    assert result['loss'].item() == pytest.approx(supervised.item() + 0.7 * wanted, rel=1e-5)


def test_statistics_are_of_all_rows():
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=1.0), nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    input, target = make_batch()
    make_task(model=model)(input, target)
    assert torch.allclose(model[0].running_mean, input.mean((0, 2, 3)), atol=1e-6)


def test_labels_of_unlabelled_rows_do_not_matter():
    input, target = make_batch()
    other = target.clone()
    other[3:] = 2
    model = small_cnn()
    losses = [make_task(model=model)(input, labels)['loss'] for labels in (target, other, target[:3])]
    assert losses[0] == losses[1] == losses[2]


def test_the_target_is_the_clean_image_alone():
    """No gradient flows through it: the clean rows move nothing where the weight is all there is."""
    input, target = make_batch()
    input.requires_grad_()
    make_task(threshold=0.0)(input, target)['loss'].backward()
    rows = input.grad.flatten(1).abs().sum(1).bool()
    assert rows.tolist() == [True] * 3 + [False] * 6 + [True] * 6


def test_pasted_by_the_largest_logit_of_the_clean_image():
    """Only the second image is changed, by saliency of the first."""
    model = small_cnn()
    paste = KeepPaste(model, size=6, tau=0.6, saliency='full')
    task, (input, target) = make_task([paste], model=model), make_batch()
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if torch.is_grad_enabled() else None)
    task(input, target)
    clean, augmented = input[3:9], input[9:]
    batch = seen[-1]
    assert torch.equal(batch[:9], input[:9])
    assert torch.equal(batch[9:], torch.where(paste.last['mask'], clean, augmented))
    assert not torch.equal(batch[9:], augmented)
    assert torch.equal(paste.last['saliency'], input_saliency(model, clean, None))


def test_what_follows_the_policy_changes_the_second_image_alone():
    task, (input, target) = make_task([Policy(), Cutout(size=8)]), make_batch()
    seen = []
    task.get_trainable_module().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    task(input, target)
    changed = (seen[0] != input).flatten(1).any(1)
    assert changed.tolist() == [False] * 9 + [True] * 6


def test_refined_both_images_are_one():
    task, (input, target) = make_task([KeepPaste(tau=None, size=6)], threshold=0.0, temperature=1.0), make_batch()
    weaken(task, 0.0)
    seen = []
    task.get_trainable_module().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    result = task(input, target)
    assert torch.equal(seen[0][9:], input[3:9])
    assert result['loss'].item() == pytest.approx(F.cross_entropy(result['output'][:3], target[:3]).item(), rel=1e-5)


def test_validation_is_of_labelled_images():
    task = make_task().eval()
    x, target = torch.randn(5, 3, SIZE, SIZE), torch.arange(5) % 3
    result = task(x, target)
    assert result['loss'].item() == pytest.approx(F.cross_entropy(result['output'], target).item())


def test_an_early_head_learns_both_ways():
    inner = EarlyExitTask(
        ClassificationTask(
            timm.create_model('test_resnet', num_classes=3), criterion=nn.CrossEntropyLoss(), verbose=False
        )
    )
    task = ConsistencyTask(inner, Compose([Policy()]), ratio=1, threshold=0.0).train()
    input = torch.randn(6, 3, 32, 32)
    early = []
    task.get_trainable_module().head.register_forward_hook(lambda module, inputs, output: early.append(output))
    result = task(input, torch.tensor([0, 1]))
    logits = early[0]
    wanted = F.cross_entropy(logits[:2], torch.tensor([0, 1])).item()
    wanted += slow_consistency(logits[2:4], logits[4:], 0.4, 0.0)[0]
    assert result['early_loss'].item() == pytest.approx(wanted, rel=1e-4)


def test_labels_are_annealed_by_updates():
    annealed = AnnealedCrossEntropy('linear', smoothing=0.1)
    task, (input, target) = make_task(weight=0.0, annealed=annealed), make_batch()
    task.set_step(1.5)  # in a refined epoch
    result = task(input, target)
    wanted = F.cross_entropy(result['output'][:3], target[:3], label_smoothing=0.1)
    assert result['loss'].item() == pytest.approx(wanted.item(), rel=1e-5)
    task.set_step(0.0)
    task.set_progress(1.0)  # which counts epochs
    kept = result['output'][:3].softmax(1).gather(1, target[:3, None])[:, 0] <= 1 / 3
    assert 0 < kept.sum() < 3
    wanted = F.cross_entropy(result['output'][:3][kept], target[:3][kept], label_smoothing=0.1)
    assert task(input, target)['loss'].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_watched_it_tells_both_losses_and_the_share():
    task, (input, target) = make_task(threshold=0.36, weight=0.5), make_batch()
    task(input, target)
    assert task.scalars() == {}
    task.watched = True
    losses = [task(input, target)['loss'].item() for _ in range(2)]
    told = task.scalars()
    assert set(told) == {'uda/labelled', 'uda/consistency', 'uda/confident'}
    assert told['uda/labelled'] + 0.5 * told['uda/consistency'] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert 0 < told['uda/confident'] < 1
    assert torch.equal(task.received[0], augmented_part(task, input, target)[0]) and task.received[1] is None
    task.set_progress(0.5)
    assert task.scalars() == {}


def test_watched_without_unlabelled_images_it_tells_nothing():
    task, (input, target) = make_task(ratio=0), make_batch(ratio=0)
    task.watched = True
    result = task(input, target)
    assert result['loss'].item() == pytest.approx(F.cross_entropy(result['output'], target).item())
    assert task.scalars() == {}


def test_watched_it_tells_the_threshold_of_labels():
    task, (input, target) = make_task(annealed=AnnealedCrossEntropy('linear')), make_batch()
    task.watched = True
    for progress in 0.0, 0.5:
        task.set_step(progress)
        task(input, target)
    assert task.scalars()['uda/tsa_threshold'] == pytest.approx(1 / 3 + 0.5 * 2 / 3)


@pytest.mark.parametrize('watched', [False, True])
def test_losses_are_computed_once(watched, monkeypatch):
    """Watched or not; with an early head once for each head, and what is told is of the whole network's answer."""
    inner = EarlyExitTask(
        ClassificationTask(
            timm.create_model('test_resnet', num_classes=3), criterion=nn.CrossEntropyLoss(), verbose=False
        )
    )
    task = ConsistencyTask(inner, Compose([Policy()]), ratio=1, threshold=0.0).train()
    task.watched, calls, compute = watched, [], consistency_task.consistency_loss
    monkeypatch.setattr(consistency_task, 'consistency_loss', lambda *batch: calls.append(1) or compute(*batch))
    result = task(torch.randn(6, 3, 32, 32), torch.tensor([0, 1]))
    assert len(calls) == 2
    if watched:
        supervised = F.cross_entropy(result['output'][:2], torch.tensor([0, 1])).item()
        assert task.scalars()['uda/labelled'] == pytest.approx(supervised, rel=1e-5)


def test_unlabelled_images_separate_what_four_labels_do_not():
    """Two clusters, apart in the second number; the first one tells of the class among the four labels alone.

    What augments an image draws its first number anew.
    """
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (400,), generator=generator)

    def scatter(count: int) -> Tensor:
        return 2.0 * torch.randn(count, generator=generator)

    own = (side * 2 - 1) + 0.2 * torch.randn(400, generator=generator)
    x = torch.stack([scatter(400), own], 1).view(400, 2, 1, 1)
    labelled = torch.tensor([[-3.0, -0.9], [-2.5, -1.1], [2.5, 1.1], [3.0, 0.9]]).view(4, 2, 1, 1)
    target = torch.tensor([0, 0, 1, 1])

    def accuracy(weight: float) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
        task = make_task(ratio=100, model=model, weight=weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(200):
            after = x.clone()
            after[:, 0, 0, 0] = scatter(400)
            optimizer.zero_grad()
            task(torch.cat([labelled, x, after]), target)['loss'].backward()
            optimizer.step()
        with torch.no_grad():
            assert (model(labelled).argmax(1) == target).all()
            return (model(x).argmax(1) == side).float().mean().item()

    assert accuracy(0.0) < 0.8 and accuracy(1.0) > 0.97
