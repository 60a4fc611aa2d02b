"""What a run logs as its losses, with each of stock's flags that changes one, against the loss written out by hand.

Logits and targets of every training batch are caught on their way; the criterion is the one that stock documents for
the flags, taken from `timm.loss`, and the mean is over images.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.task import ClassificationTask
from torch import Tensor

import train
from tests.scripts import TINY, run_train

SMOOTHED = LabelSmoothingCrossEntropy(0.1)
MIXED = SoftTargetCrossEntropy()
NAFLEX = (
    '--model test_vit --model-kwargs use_naflex=True --naflex-loader '
    '--naflex-train-seq-lens 2 4 --naflex-max-seq-len 4 -b 4'
)
CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    '': SMOOTHED,
    '--smoothing 0': F.cross_entropy,
    '--smoothing 0.3': LabelSmoothingCrossEntropy(0.3),
    '--bce-loss': BinaryCrossEntropy(0.1),
    '--bce-loss --smoothing 0': BinaryCrossEntropy(0.0),
    '--bce-loss --bce-sum --bce-target-thresh 0.2 --bce-pos-weight 2': BinaryCrossEntropy(
        0.1, target_threshold=0.2, sum_classes=True, pos_weight=2.0
    ),
    '--mixup 0.4': MIXED,
    '--mixup 0.4 --smoothing 0': MIXED,
    '--mixup 0.4 --mixup-off-epoch 0': MIXED,
    '--cutmix 1 --no-prefetcher': MIXED,
    '--mixup 0.4 --bce-loss --bce-target-thresh 0.3': BinaryCrossEntropy(0.0, target_threshold=0.3),
    '--jsd-loss --aug-splits 2 --aa rand-m3': JsdCrossEntropy(2, 12, 0.1),
    '--aug-splits 2 --aa rand-m3 --resplit': SMOOTHED,
    '--grad-accum-steps 2': SMOOTHED,  # of three batches: the last group is a batch of its own
    '--grad-accum-steps 3 --clip-grad 0.1': SMOOTHED,
    '--amp --amp-dtype bfloat16': SMOOTHED,
    '--model-dtype bfloat16': SMOOTHED,
    '--head-init-scale 0.1 --head-init-bias 1 --drop 0.3 --model-ema': SMOOTHED,
    '--train-img-sizes 24 32 --train-batch-sizes 8 4 --variable-batch-loss-scale none': SMOOTHED,
    '--train-img-sizes 24 32 --train-batch-sizes 8 4 --variable-batch-loss-scale sqrt': SMOOTHED,
    '--train-img-sizes 24 32 --train-batch-sizes 8 4 --variable-batch-loss-scale linear': SMOOTHED,
    f'{NAFLEX} --naflex-loss-scale linear': SMOOTHED,
    f'{NAFLEX} --naflex-loss-scale sqrt --mixup 0.4': MIXED,
    '--loss poly --poly-epsilon 2': timm.loss.PolyCrossEntropy(epsilon=2.0, smoothing=0.1),
}


@pytest.fixture
def passes(monkeypatch) -> dict[str, list[Tensor]]:
    """Training's logits and targets and validation's logits, of each batch in order."""
    caught = {'logits': [], 'targets': [], 'validation': []}
    forward = ClassificationTask.forward

    def keep_targets(task, input, target):
        caught['targets'].append(target)
        return forward(task, input, target)

    def keep_logits(model, _, output):
        caught['logits' if model.training else 'validation'].append(output.detach())

    def create_model(*args, **kwargs):
        model = timm.create_model(*args, **kwargs)
        model.register_forward_hook(keep_logits)
        return model

    monkeypatch.setattr(ClassificationTask, 'forward', keep_targets)
    monkeypatch.setattr(train, 'create_model', create_model)
    return caught


@pytest.mark.parametrize('flags', CRITERIA)
def test_training_loss(flags, data, tmp_path, passes):
    logged = run(flags, data, tmp_path)['train_loss']
    assert len(passes['logits']) == len(passes['targets']) >= 3
    batches = list(zip(passes['logits'], passes['targets']))
    losses = [CRITERIA[flags](*batch).item() * len(batch[0]) for batch in batches]
    # Autocast may compute the criterion in another format.
    assert logged == pytest.approx(
        sum(losses) / sum(len(logits) for logits, _ in batches), rel=1e-2 if 'bfloat16' in flags else 1e-6
    )


@pytest.mark.parametrize(
    'flags',
    [
        '--smoothing 0.3',
        '--bce-loss --bce-sum',
        '--mixup 0.4 --cutmix 1',
        '--jsd-loss --aug-splits 2 --aa rand-m3',
        '--loss poly --poly-epsilon 2',
        '--model-ema --model-ema-decay 0.5',
        '--tta 2',
        '--validation-batch-size 5',
    ],
)
def test_validation_loss_is_plain_cross_entropy(flags, data, tmp_path, passes):
    """Of hard labels, whatever trains; of the averaged weights where there are any, which are validated last."""
    logged = run(flags, data, tmp_path)
    labels, step = torch.arange(3).repeat_interleave(8), 2 if 'tta' in flags else 1
    logits = torch.cat(passes['validation'])[-len(labels) :].unflatten(0, (-1, step)).mean(1)
    assert logged['eval_loss'] == pytest.approx(F.cross_entropy(logits, labels[::step]).item(), rel=1e-6)
    right = (logits.argmax(1) == labels[::step]).double().mean().item()
    assert logged['eval_top1'] == pytest.approx(100 * right)


def run(flags: str, data: Path, output: Path) -> dict[str, float]:
    """The row of a run of one epoch."""
    folder = run_train(f'{data} {TINY} --epochs 1 {flags}', output)
    with open(folder / 'summary.csv') as file:
        (row,) = csv.DictReader(file)
    return {name: float(value) for name, value in row.items()}
