"""Boxes follow the pixels of the real evaluation transform."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from keepaug.evaluation.geometry import move_boxes, moving_steps

SIZES = [(40, 40), (61, 40), (40, 61), (97, 53), (33, 120)]  # (H, W)
TARGETS = [(32, 32), (24, 40), (45, 31)]
CROPS = list(itertools.product(('center', 'squash', 'border'), TARGETS, (0.875, 1.0, 0.6), (0, 3)))


def edges(values: np.ndarray, level: float) -> tuple[float, float]:
    """Where a row of grey values rises above a level and falls below it, between pixels: half-open, in pixels."""
    above = np.flatnonzero(values > level)
    first, last = above[0], above[-1]
    # A linear ramp between the centres of two pixels crosses the level in between; a pixel's centre is at its half.
    start = first + 0.5 - (values[first] - level) / (values[first] - values[first - 1])
    stop = last + 0.5 + (values[last] - level) / (values[last] - values[last + 1])
    return start, stop


@pytest.mark.parametrize('mode, target, crop_pct, border', CROPS)
def test_marker_lands_in_its_box(mode, target, crop_pct, border):
    """Reference: a white square on black, through the real transform, is white where the box says."""
    transform = create_transform(
        (3, *target), crop_mode=mode, crop_pct=crop_pct, crop_border_pixels=border, mean=(0, 0, 0), std=(1, 1, 1)
    )
    steps = moving_steps(transform)
    for size in SIZES:
        pixels = np.zeros((*size, 3), np.uint8)
        top, left = (edge // 2 - 3 for edge in size)
        pixels[top : top + 5, left : left + 6] = 255
        seen = transform(Image.fromarray(pixels))[0].numpy()
        ((x0, y0, x1, y1),) = move_boxes(torch.tensor([[left, top, left + 6.0, top + 5.0]]), steps, size).tolist()
        found = (*edges(seen.max(0), 0.5 * seen.max()), *edges(seen.max(1), 0.5 * seen.max()))
        assert np.abs(np.subtract((x0, x1, y0, y1), found)).max() < 0.5, (size, found)


@pytest.mark.parametrize('mode', ['center', 'squash', 'border'])
def test_whole_pixels_exactly(mode):
    """Exact: where nothing is resized, the crop alone moves a box, to the pixel."""
    for height, width in itertools.product(range(30, 36), repeat=2):
        pixels = np.zeros((height, width), np.uint8)
        pixels[15, 14] = 255
        transform = create_transform((1, 30, 30), crop_mode=mode, crop_pct=1.0)
        crop = transforms.Compose([step for step in transform.transforms if 'Crop' in type(step).__name__])
        row, column = np.argwhere(np.asarray(crop(Image.fromarray(pixels).convert('RGB')))[..., 0])[0]
        moved = move_boxes(torch.tensor([[14.0, 15, 15, 16]]), moving_steps(crop), (height, width))
        assert moved.tolist() == [[column, row, column + 1, row + 1]]


def test_padding_to_the_pixel():
    for height, width in itertools.product(range(25, 31), repeat=2):
        crop = transforms.CenterCrop(30)
        pixels = torch.zeros(1, height, width)
        pixels[0, 3, 4] = 1
        moved = move_boxes(torch.tensor([[4.0, 3, 5, 4]]), moving_steps(crop), (height, width))
        assert crop(pixels)[0].nonzero().flip(1).tolist() == moved[:, :2].tolist()


def test_no_transform_moves_nothing():
    boxes = torch.tensor([[1.0, 2, 3, 4], [5, 5, 10, 9]])
    assert move_boxes(boxes, moving_steps(None), (7, 9)).tolist() == [[1, 2, 3, 4], [5, 5, 9, 7]]


def test_what_is_trimmed_does_not_reach_into_the_padding():
    # 40 x 20 without 4 pixels around, 32 x 12, is put into the middle of 32 x 32.
    steps = moving_steps(create_transform((3, 32, 32), crop_mode='border', crop_pct=1.0, crop_border_pixels=4))
    whole = torch.tensor([[0.0, 0, 40, 20]])
    assert move_boxes(whole, steps, (20, 40)).tolist() == [[0, 10, 32, 22]]


def test_unknown_step_is_refused():
    with pytest.raises(ValueError, match='RandomResizedCrop'):
        moving_steps(transforms.Compose([transforms.RandomResizedCrop(32)]))
