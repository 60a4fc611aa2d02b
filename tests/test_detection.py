"""The detection example: its data, its arms, its table and its files."""

import argparse
import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from keepaug.datasets import ClutteredDigits
from keepaug.export import timm_folder
from keepaug.export.source import load_source
from tests.export.checkpoints import create, save

pytest.importorskip('torchmetrics')
coco = pytest.importorskip('pycocotools.coco')
EXAMPLE = argparse.Namespace(
    **runpy.run_path(str(Path(__file__).parents[1] / 'examples' / 'detection.py'), run_name='detection')
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A backbone as the export leaves it."""
    place = tmp_path_factory.mktemp('detection')
    model = create('test_resnet', num_classes=10)
    path = save(place / 'last.pth.tar', model, 'test_resnet', mean=(0.5,), std=(0.4,))
    timm_folder.export(load_source(str(path)), str(place / 'backbone'))
    return str(place / 'backbone')


def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, 'argv', ['detection.py', *map(str, flags)])
    EXAMPLE.main()


def test_boxes_hold_the_digits():
    """Of every tile, by the pixels of its digit; no image is one that a backbone was trained on by default."""
    samples = EXAMPLE.draw_images('train', 2)
    digits = ClutteredDigits('train', num_samples=4008)
    for index, (image, target) in enumerate(samples):
        assert image.shape == (3, 80, 80) and target['boxes'].shape == (4, 4)
        for tile in range(4):
            digit = 4000 + 4 * index + tile
            top, left = 40 * (tile // 2), 40 * (tile % 2)
            assert image[:, top : top + 40, left : left + 40].mul(255).round().byte().equal(digits.image(digit))
            ys, xs = digits.mask(digit).nonzero(as_tuple=True)
            wanted = [xs.min() + left, ys.min() + top, xs.max() + 1 + left, ys.max() + 1 + top]
            assert target['boxes'][tile].tolist() == [int(edge) for edge in wanted]
            assert target['labels'][tile] == digits.target(digit) + 1


def test_arms_begin_as_they_say(folder):
    random, exported, frozen = (EXAMPLE.Backbone(folder, **begin) for begin in EXAMPLE.ARMS.values())
    state = create('test_resnet', num_classes=10).state_dict()
    for backbone, same in ((random, False), (exported, True), (frozen, True)):
        own = backbone.body.state_dict()
        assert own['layer1.0.conv1.weight'].equal(state['layer1.0.conv1.weight']) == same
        assert backbone.mean == [0.5, 0.5, 0.5] and backbone.std == [0.4, 0.4, 0.4]
    x = torch.rand(2, 3, 80, 80)
    for backbone, moves in ((exported, True), (frozen, False)):
        before = backbone.body.state_dict()['layer1.0.bn1.running_mean'].clone()
        maps = backbone.train()(x)
        assert [tuple(level.shape[2:]) for level in maps.values()] == [(20, 20), (10, 10), (5, 5), (3, 3), (2, 2)]
        assert before.equal(backbone.body.state_dict()['layer1.0.bn1.running_mean']) != moves


class Oracle(nn.Module):
    """Finds all digits but the last of each image."""

    def __init__(self, targets):
        super().__init__()
        self.targets = iter(targets)

    def forward(self, images):
        found = [next(self.targets) for _ in images]
        return [dict(boxes=target['boxes'][:3], labels=target['labels'][:3], scores=torch.ones(3)) for target in found]


def test_measures_what_is_found():
    """Three of four, of every class alike: COCO's precision is 1 up to their recall, and 0 from there on."""
    samples = []
    for label in range(1, 11):
        boxes = torch.tensor([[0.0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60], [40, 40, 60, 60]])
        samples.append((torch.zeros(3, 80, 80), dict(boxes=boxes, labels=torch.full((4,), label))))
    result = EXAMPLE.measure(Oracle(target for _, target in samples), samples)
    assert result['map'] == pytest.approx(100 * 76 / 101, abs=0.01) and result['map_50'] == result['map']


def test_every_arm_is_a_row_and_none_is_measured_twice(folder, tmp_path, monkeypatch, capsys):
    table = tmp_path / 'detection.csv'
    flags = ('--backbone', folder, '--images', 8, '--validation-images', 2, '--epochs', 1, '--output', table)
    run(monkeypatch, *flags)
    rows = list(csv.DictReader(table.open()))
    assert [row['arm'] for row in rows] == list(EXAMPLE.ARMS)
    assert all(0 <= float(row['map']) <= float(row['map_50']) <= 100 for row in rows)
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(''.join(lines[:-1]))
    capsys.readouterr()
    run(monkeypatch, *flags)
    assert table.read_text().splitlines(keepends=True) == lines, 'the same seed gives the same numbers'
    out = capsys.readouterr().out
    assert out.count('seed 0') == 1 and out.count('(n = 1)') == 3 and out.count('minus random') == 2
    setting = dict(images=8, validation_images=2, epochs=2)
    assert EXAMPLE.read_table(table, setting) == {arm: {} for arm in EXAMPLE.ARMS}, 'another setting is another result'


def test_coco_files(tmp_path, monkeypatch):
    run(monkeypatch, '--coco', tmp_path, '--images', 3, '--validation-images', 2)
    for split, count in (('train', 3), ('validation', 2)):
        read = coco.COCO(str(tmp_path / f'{split}.json'))
        assert len(read.imgs) == count and len(read.anns) == 4 * count
        assert [category['name'] for category in read.loadCats(range(1, 11))] == [str(digit) for digit in range(10)]
        for (image, target), described in zip(EXAMPLE.draw_images(split, count), read.loadImgs(sorted(read.imgs))):
            pixels = Image.open(tmp_path / split / described['file_name'])
            assert pixels.size == (described['width'], described['height']) == (80, 80)
            assert pixels.getpixel((50, 30)) == tuple(image[:, 30, 50].mul(255).round().int().tolist())
            own = read.loadAnns(read.getAnnIds(described['id']))
            assert [annotation['category_id'] for annotation in own] == target['labels'].tolist()
            for (left, top, width, height), box in zip((annotation['bbox'] for annotation in own), target['boxes']):
                assert [left, top, left + width, top + height] == box.tolist()
        assert json.loads((tmp_path / f'{split}.json').read_text())['annotations'][0]['iscrowd'] == 0


def test_a_backbone_or_a_folder_is_asked_for(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch)
    assert '--backbone FOLDER is needed' in capsys.readouterr().err
