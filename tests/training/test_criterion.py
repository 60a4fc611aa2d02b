"""The criterion of a task whose labels are mixed."""

import pytest
import timm
import torch
from timm.loss import BinaryCrossEntropy, JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import ClassificationTask
from torch.nn import CrossEntropyLoss
from torch.testing import assert_close

from keepaug.augment import Compose, create_augment
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.criterion import target_aware

LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
SOFT = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
WEIGHT = torch.tensor([1.0, 2.0, 0.5])


@pytest.mark.parametrize(
    'criterion, soft',
    [
        (LabelSmoothingCrossEntropy(0.1), SoftTargetCrossEntropy()),
        (CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), CrossEntropyLoss(weight=WEIGHT)),
        (BinaryCrossEntropy(0.1), BinaryCrossEntropy(0.1)),
    ],
)
def test_by_the_kind_of_the_target(criterion, soft):
    both = target_aware(criterion)
    assert_close(both(LOGITS, LABELS), criterion(LOGITS, LABELS), rtol=0, atol=0)
    assert_close(both(LOGITS, SOFT), soft(LOGITS, SOFT), rtol=0, atol=0)
    assert target_aware(both) is both


def test_without_a_soft_form():
    with pytest.raises(ValueError, match='JsdCrossEntropy takes no mixed labels'):
        target_aware(JsdCrossEntropy())


@pytest.mark.parametrize('mode', ['cutout', 'cutmix'])
def test_a_task_gets_it_where_labels_are_mixed(mode):
    """Once, and nothing of it enters checkpoints."""
    model = timm.create_model('test_resnet', num_classes=3)
    inner = ClassificationTask(model, LabelSmoothingCrossEntropy(0.1), verbose=False)
    criterion, names = inner.criterion, list(inner.get_checkpoint_state()['state_dict'])
    augment = create_augment('keep-cut', model=model, num_classes=3, mode=mode, size=8, saliency='full')
    task = AugmentedTask(inner, Compose([augment])).train()
    assert (inner.criterion is criterion) == (mode == 'cutout')
    x = torch.randn(4, 3, 32, 32)
    for training in (True, False):
        assert task.train(training)(x, LABELS)['loss'].isfinite()
    assert_close(task(x, LABELS)['loss'], criterion(model(x), LABELS), rtol=0, atol=0)
    assert list(task.get_checkpoint_state()['state_dict']) == names
