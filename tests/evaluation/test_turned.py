"""Boxes of photographs that their EXIF data turn: where the model sees the object, whichever form they are of."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_dataset

from keepaug.data.unreadable import NamedFailures
from keepaug.evaluation.boxes import TrueBoxes
from keepaug.evaluation.turned import ORIENTATION, Stored, are_upright, turn_back

SIZE = (30, 50)  # (H, W) as stored
BOX = (3, 4, 13, 9)


def photograph(path, orientation: int) -> tuple[Image.Image, tuple[int, ...]]:
    """Writes a black photograph with a white object at `BOX` and gives it upright, with the box there."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(path))
    rows, columns = np.nonzero(np.asarray(upright)[..., 0] > 127)
    return upright, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_orientation_is_turned_back(orientation, tmp_path):
    upright, box = photograph(tmp_path / 'one.jpg', orientation)
    stored = Stored(SIZE, orientation)
    assert stored.upright == upright.size[::-1]
    assert turn_back(torch.tensor([box], dtype=torch.float64), stored).tolist() == [list(map(float, BOX))]


@pytest.fixture
def folder(tmp_path):
    """A photograph for each way to turn one, of one class."""
    (tmp_path / 'images' / 'a').mkdir(parents=True)
    boxes = {turn: photograph(tmp_path / 'images' / 'a' / f'{turn}.jpg', turn)[1] for turn in range(1, 9)}
    return NamedFailures(create_dataset('', root=str(tmp_path / 'images'))), boxes


def true_boxes(dataset, boxes, tmp_path):
    path = tmp_path / 'boxes.csv'
    path.write_text('\n'.join(f'a/{turn}.jpg,' + ','.join(map(str, box)) for turn, box in boxes.items()))
    return TrueBoxes(dataset, None, str(path))


def test_boxes_of_upright_images_follow_the_pixels(folder, tmp_path, caplog):
    """A box that reaches beyond the stored image tells for all that all are of the upright ones."""
    dataset, boxes = folder
    bottom = next(turn for turn in (6, 8) if boxes[turn][3] > SIZE[0] + 2)
    assert bottom
    with caplog.at_level('INFO', 'validate'):
        found = true_boxes(dataset, boxes, tmp_path)
    assert '7 of 8 images looked at are photographs that their EXIF data turn' in caplog.text
    assert 'of the upright images, and are turned back' in caplog.text
    assert [found(index).tolist() for index in range(8)] == [[list(map(float, BOX))]] * 8


def test_boxes_of_stored_images_stay(folder, tmp_path, caplog):
    dataset, boxes = folder
    wide = (20, 4, 45, 9)  # beyond the upright form of those that lie on their side
    with caplog.at_level('INFO', 'validate'):
        found = true_boxes(dataset, dict.fromkeys(boxes, wide), tmp_path)
    assert 'so are their boxes' in caplog.text
    assert [found(index).tolist() for index in range(8)] == [[list(map(float, wide))]] * 8


def test_where_nothing_tells_it_is_said(folder, tmp_path, caplog):
    dataset, _ = folder
    with caplog.at_level('INFO', 'validate'):
        found = true_boxes(dataset, {6: (1, 1, 9, 9)}, tmp_path)
    assert 'taken as those of the stored ones' in caplog.text and found(5).tolist() == [[1, 1, 9, 9]]


def test_upright_photographs_need_no_word(folder, tmp_path, caplog):
    dataset, boxes = folder
    with caplog.at_level('INFO', 'validate'):
        true_boxes(dataset, {1: boxes[1]}, tmp_path)
    assert 'EXIF' not in caplog.text


def test_evidence():
    side = Stored((30, 50), 6)
    tall, wide, small = [(0, 0, 20, 45)], [(0, 0, 45, 20)], [(0, 0, 9, 9)]
    assert are_upright([(side, small), (side, tall)]) is True
    assert are_upright([(side, wide), (side, small)]) is False
    assert are_upright([(side, small)]) is None and are_upright([(side, wide), (side, tall)]) is None
