"""Calibration, accuracy per class and confusion, against hand-drawn cases and slow references."""

import contextlib
import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from keepaug.validation.analysis import BINS, Analysis, _write_rows, check_analysis, most_confused
from keepaug.validation.classes import class_names
from keepaug.validation.results import check_files

RESULTS = dict(model='net', top1=60.0, top5=100.0)


def logits_of(probabilities):
    return torch.tensor(probabilities).log()


def analyse(output, target, num_classes, names=None):
    analysis = Analysis(num_classes, names)
    for rows in zip(output.split(7), target.split(7)):
        analysis.update(*rows)
    return analysis


def test_drawn_by_hand():
    """Five images of three classes. Confidence 0.8 is right twice in two, 0.6 once in three."""
    output = logits_of([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2]])
    found = analyse(output, torch.tensor([0, 1, 0, 1, 0]), 3, ['cat', 'dog', 'owl']).compute()
    assert found['ece'] == pytest.approx(100 * (2 * 0.2 + 3 * (0.6 - 1 / 3)) / 5, abs=1e-3)
    assert found['confusion'] == [[0, 0, 2], [0, 1, 1], [1, 0, 1], [1, 1, 1]], 'true, predicted, images'
    assert found['classes'] == [
        dict(name='cat', images=3, accuracy=66.6667),
        dict(name='dog', images=2, accuracy=50.0),
        dict(name='owl', images=0, accuracy=None),
    ]


def test_against_slow_loops():
    generator = torch.Generator().manual_seed(0)
    output = 2 * torch.randn(500, 7, generator=generator)
    target = torch.randint(7, (500,), generator=generator)
    found = analyse(output, target, 7).compute()
    confusion, bins = np.zeros((7, 7), int), [[] for _ in range(BINS)]
    for row, label in zip(output.softmax(1), target):
        confusion[label, row.argmax()] += 1
        confidence = row.max().item()
        bins[min(int(confidence * BINS), BINS - 1)].append((confidence, (row.argmax() == label).item()))
    ece = sum(abs(sum(c for c, _ in held) - sum(right for _, right in held)) for held in bins) / 500
    assert found['confusion'] == [
        [*pair, confusion[pair]] for pair in zip(*map(np.ndarray.tolist, confusion.nonzero()))
    ]
    assert found['ece'] == pytest.approx(100 * ece, abs=1e-3)


def test_calibrated_outputs_have_no_error():
    """Statistical: labels drawn from the predicted distribution itself, n = 20,000."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(20_000, 5, generator=generator)
    target = torch.multinomial(output.softmax(1), 1, generator=generator)[:, 0]
    analysis = Analysis(5)
    analysis.update(output, target)
    assert analysis.compute()['ece'] < 1.5
    analysis = Analysis(5)
    analysis.update(10 * output, target)  # the same decisions, overconfident
    assert analysis.compute()['ece'] > 20


def test_half_precision_outputs():
    output = torch.randn(20, 3)
    found = analyse(output.bfloat16(), torch.zeros(20, dtype=torch.long), 3).compute()
    assert found['classes'][0]['images'] == 20


@pytest.mark.parametrize('num_classes', [3, 80, 21_841])
def test_files(num_classes, tmp_path):
    output, target = torch.randn(40, num_classes), torch.arange(40) % num_classes
    analysis = analyse(output, target, num_classes)
    analysis.write(str(tmp_path / 'deep' / 'out'), RESULTS)
    folder = tmp_path / 'deep' / 'out'
    assert sorted(path.name for path in folder.iterdir()) == [
        'analysis.json',
        'classes.csv',
        'confusion.csv',
        'confusion.png',
        'summary.csv',
    ]
    found = analysis.compute()
    assert json.loads((folder / 'analysis.json').read_text()) == {**RESULTS, **found}
    rows = list(csv.reader((folder / 'confusion.csv').open()))
    assert rows[0] == ['true', 'predicted', 'images']
    assert [[int(cell) for cell in row] for row in rows[1:]] == found['confusion']
    rows = list(csv.DictReader((folder / 'classes.csv').open()))
    assert [int(row['images']) for row in rows] == [row['images'] for row in found['classes']]
    assert next(csv.DictReader((folder / 'summary.csv').open()))['ece'] == str(found['ece'])
    assert min(Image.open(folder / 'confusion.png').size) > 300
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6, 'linear in the classes'


def test_the_most_confused_classes_are_pictured():
    pairs = torch.tensor([[0, 0, 90], [1, 2, 3], [3, 4, 9], [5, 4, 2], [6, 6, 1]])
    assert most_confused(pairs, 2, 8) == [3, 4]
    assert most_confused(pairs, 4, 8) == [1, 2, 3, 4]


def test_names_are_no_formulas(tmp_path):
    analysis = analyse(torch.randn(3, 2), torch.tensor([0, 1, 1]), 2, ['$^$', '$a_$'])
    analysis.write(str(tmp_path), RESULTS)
    assert (tmp_path / 'confusion.png').stat().st_size > 0


def test_refusals(tmp_path, monkeypatch):
    check_analysis('', 'real.json')
    with pytest.raises(ValueError, match='--real-labels'):
        check_analysis(str(tmp_path), 'real.json')
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(ValueError, match='--analysis-dir'):
        check_analysis(str(tmp_path / 'file' / 'out'), '')
    with pytest.raises(ValueError, match='--analysis-dir'):
        analyse(torch.randn(3, 3), torch.arange(3), 3).write(str(tmp_path / 'file'), RESULTS)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"torchmetrics and matplotlib: pip install -e '.\[eval\]'"):
        check_analysis(str(tmp_path), '')


def test_a_spreadsheet_reads_names_as_text(tmp_path):
    path = tmp_path / 'names.csv'
    _write_rows(str(path), [('=1+1', '+x', '-y', '@z', 'cat', -1, 0.5)])
    assert path.read_text().strip() == "'=1+1,'+x,'-y,'@z,cat,-1,0.5"


@pytest.mark.parametrize('rank, asks', [('0', True), ('1', False)])
def test_only_the_process_that_writes_asks_for_the_place(rank, asks, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('in the way')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', rank)
    args = SimpleNamespace(results_file=f'{tmp_path}/file/results.csv', real_labels='', valid_labels='')
    for check in (lambda: check_analysis(f'{tmp_path}/file', ''), lambda: check_files(args)):
        with pytest.raises(ValueError, match='cannot be written') if asks else contextlib.nullcontext():
            check()


def test_names_that_are_no_text_can_be_written(tmp_path):
    names = class_names(SimpleNamespace(class_to_idx={os.fsdecode(b'caf\xe9'): 0, 'tea': 1}), None, 2)
    assert names == ['caf?', 'tea']
    analyse(logits_of([[0.8, 0.2], [0.3, 0.7]]), torch.tensor([0, 0]), 2, names).write(str(tmp_path), RESULTS)
    assert 'caf?' in (tmp_path / 'classes.csv').read_text()
