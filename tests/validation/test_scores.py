"""Precision, recall and F1: scikit-learn's numbers, and what happens without torchmetrics."""

import argparse

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from keepaug.validation import check_averaging
from keepaug.validation.scores import AveragedScore


@pytest.mark.parametrize('average', ['micro', 'macro', 'weighted'])
@pytest.mark.parametrize(
    'labels',
    [
        range(7),
        (0, 1, 4),  # of the others none occurs as label, some as answer
        (2,),
    ],
)
def test_averages_are_scikit_learns(average, labels):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(50, 7, generator=generator)
    output[:, 5:] -= 9  # never the answer, and so neither label nor answer in some cases
    target = torch.tensor(labels)[torch.randint(len(labels), (50,), generator=generator)]
    score = AveragedScore(average, 7)
    for batch in zip(output.split(16), target.split(16)):
        score.update(*batch)
    wanted = precision_recall_fscore_support(
        target.numpy(), output.argmax(1).numpy(), average=average, zero_division=0
    )[:3]
    got = score.compute()
    assert list(got) == [f'{average}_{name}' for name in ('precision', 'recall', 'f1_score')]
    assert list(got.values()) == pytest.approx([100 * float(value) for value in wanted], rel=1e-12)


def test_without_torchmetrics_it_is_left_out(monkeypatch, caplog):
    args = argparse.Namespace(metrics_avg='macro')
    check_averaging(args)
    assert args.metrics_avg == 'macro'
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    check_averaging(args)
    assert args.metrics_avg is None and 'torchmetrics' in caplog.text
