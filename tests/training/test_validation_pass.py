"""One pass of validation: which outputs count, who sees them, what the log says."""

import logging
import re

import pytest
import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import nn

from keepaug.training.forward import Forward
from keepaug.training.validation_pass import LogLines, validate
from keepaug.validation.scores import OneLabelEvaluator, ValidationLines

NUMBER = r'[-+.\de]+'
METRICS = rf'Loss: +{NUMBER} \( *{NUMBER}\)  Acc@1: +{NUMBER} \( *{NUMBER}\)  Acc@5: +{NUMBER} \( *{NUMBER}\)'


class Padded(list):
    """Batches of which a distributed sampler repeated some images."""

    class sampler:
        num_valid_samples = 3


def batches(*sizes: int, of=list):
    """Logits of three classes, each largest at its label, in batches of these sizes."""
    labels = torch.arange(sum(sizes)) % 3
    return of(zip((5.0 * nn.functional.one_hot(labels, 3)).split(sizes), labels.split(sizes)))


def run(loader, **settings):
    return validate(nn.Identity(), loader, ClassificationEvaluator(), Forward(), **settings)


def test_metrics_and_observers():
    loader, seen = batches(4, 2), []
    loader[1] = loader[1][0], (loader[1][1] + 1) % 3  # two of six wrong
    metrics = run(loader, observers=[lambda output, target: seen.append((output, target))])
    assert metrics['top1'] == pytest.approx(400 / 6) and metrics['top5'] == 100
    assert all(torch.equal(x, y) for pair, other in zip(seen, loader, strict=True) for x, y in zip(pair, other))


@pytest.mark.parametrize('sizes', [(2, 2), (3, 1), (1, 1, 1, 1, 1)])
def test_repeated_images_do_not_count(sizes):
    loader, seen = batches(*sizes, of=Padded), []
    for output, target in loader[-1:]:
        output[-1] = torch.tensor([0.0, 9.0, 0.0])  # wrong, if it counted
        target[-1] = 2
    metrics = run(loader, observers=[lambda output, target: seen.append(len(target))])
    assert metrics['top1'] == 100 and sum(seen) == 3 and 0 not in seen


def test_outputs_of_one_image_are_averaged():
    """Each alone says another class; together they say the label's."""
    output = torch.tensor([[3.0, 0.0, 2.0], [0.0, 3.0, 2.0], [0.0, 4.0, 3.0], [4.0, 0.0, 3.0]])
    loader = [(output, torch.tensor([2, 2, 2, 2]))]
    assert run(loader)['top1'] == 0
    seen = []
    assert run(loader, tta=2, observers=[lambda *batch: seen.append(batch)])['top1'] == 100
    assert seen[0][0].shape == (2, 3) and seen[0][1].tolist() == [2, 2]


def test_columns_are_compared_in_their_order():
    loader = batches(6)
    assert run([(output, (target + 1) % 3) for output, target in loader], classes=[2, 0, 1])['top1'] == 100
    with pytest.raises(ValueError, match='labels beyond the 2 classes'):
        validate(nn.Identity(), loader, OneLabelEvaluator(), Forward(), classes=[0, 1])


@pytest.mark.parametrize(
    'lines, numbers, form',
    [
        (LogLines(3), [0, 3, 4], rf'Test: \[ +\d/4\]  Time: {NUMBER} \({NUMBER}\)  {METRICS}'),
        (LogLines(2, ' (EMA)'), [0, 2, 4], rf'Test \(EMA\): \[ +\d/4\]  Time: {NUMBER} \({NUMBER}\)  {METRICS}'),
        (ValidationLines(3), [0, 3], rf'Test: \[ +\d/5\]  Time: {NUMBER}s \({NUMBER}s, +{NUMBER}/s\)  {METRICS}'),
        (None, [], ''),
    ],
)
def test_log_lines(lines, numbers, form, caplog):
    with caplog.at_level(logging.INFO):
        run(batches(2, 2, 2, 2, 1), lines=lines)
    said = [record.message for record in caplog.records]
    assert all(re.fullmatch(form, line) for line in said), said
    assert [int(line.partition('[')[2].partition('/')[0]) for line in said] == numbers
    assert {record.name for record in caplog.records} == ({lines.logger.name} if lines else set())
