"""Contact sheets: colours, outlines, and where pictures and texts stand."""

import numpy as np
import pytest
import torch
from PIL import ImageFont

from keepaug.functional import boxes_to_mask
from keepaug.pictures.contact_sheet import (
    FONT,
    GAP,
    HEAT,
    LINE_HEIGHT,
    OUTLINE,
    contact_sheet,
    heat,
    outline,
    to_pixels,
)

CYAN = torch.tensor(OUTLINE)


def pixels_of(sheet):
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def plain(rows, height, width, value=200):
    return torch.full((rows, 3, height, width), value, dtype=torch.uint8)


@pytest.mark.parametrize('channels, shown', [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_to_pixels_undoes_normalisation(channels, shown, dtype):
    pixels = torch.randint(256, (2, channels, 5, 7), dtype=torch.uint8)
    mean, std = torch.rand(channels), torch.rand(channels) + 0.1
    x = ((pixels / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).to(dtype)
    assert torch.equal(to_pixels(x, mean.tolist(), std.tolist()), pixels[:, shown])


def test_to_pixels_stays_within_bytes():
    x = torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2)
    assert to_pixels(x, (0.5,), (0.5,))[0, 0].tolist() == [[0, 255]]


def test_heat_runs_from_black_over_orange_to_white():
    saliency = torch.zeros(1, 1, 10, 20)
    saliency[0, 0, 0, :3] = torch.tensor([1.0, 2.0, 4.0])
    saliency[0, 0, 1:, :] = 2.0  # so that 2 is the 99th percentile, and half of it the middle of the scale
    picture = heat(saliency)
    assert picture.dtype == torch.uint8 and picture.shape == (1, 3, 10, 20)
    black, orange, white = HEAT.byte()
    assert torch.equal(picture[0, :, 0, 5], black)
    assert torch.equal(picture[0, :, 0, 0], orange)
    assert torch.equal(picture[0, :, 0, 1], white)
    assert torch.equal(picture[0, :, 0, 2], white)


def test_heat_is_white_from_the_99th_percentile():
    picture = heat(torch.arange(200.0).view(1, 1, 10, 20)).flatten(2)
    assert (picture[0] == 255).all(0).nonzero().flatten().tolist() == [197, 198, 199]


def test_heat_scales_each_map_by_itself_and_survives_any():
    saliency = torch.rand(4, 1, 8, 8)
    saliency[1] *= 1e-6
    assert torch.allclose(heat(saliency)[1].float(), heat(saliency * 1e6)[1].float(), atol=1)
    saliency[2] = 0
    saliency[3, 0, 0, 0] = float('nan')
    saliency[3, 0, 0, 1] = float('inf')
    picture = heat(saliency)
    assert not picture[2].any()
    assert not picture[3, :, 0, :2].any() and picture[3].any()


def test_outline_runs_inside_the_region():
    mask = boxes_to_mask(torch.tensor([[2, 3, 11, 12], [0, 0, 0, 0], [0, 0, 14, 5]]), (14, 14))
    pictures = plain(3, 14, 14)
    result = outline(pictures, mask)
    changed = (result != pictures).any(1)
    expected = torch.zeros(3, 14, 14, dtype=torch.bool)
    expected[0, 3:12, 2:11] = True
    expected[0, 5:10, 4:9] = False
    expected[2, :5] = True
    expected[2, 2:3, 2:12] = False
    assert torch.equal(changed, expected)
    assert torch.equal(result[0, :, 3, 2], CYAN.byte())
    assert (pictures == 200).all()


def test_outline_draws_every_region_of_a_mask():
    two = boxes_to_mask(torch.tensor([[0, 0, 7, 7], [9, 9, 20, 20]]), (20, 20)).any(0, keepdim=True)
    changed = (outline(plain(1, 20, 20), two) != 200).any(1)[0]
    assert changed[0, 0] and changed[9, 9] and changed[19, 19]
    assert not changed[3, 3] and not changed[14, 14] and not changed[8, 8]


def test_pictures_are_enlarged_and_stand_in_rows_and_columns():
    pictures = torch.randint(200, (3, 3, 4, 5), dtype=torch.uint8)
    sheet = pixels_of(contact_sheet({'a': pictures, 'b': pictures.flip(0)}, edge=20))
    head, cell_height, cell_width = LINE_HEIGHT + GAP, 20 + GAP, 25 + GAP
    assert sheet.shape == (3, head + 3 * cell_height, GAP + 2 * cell_width)
    for column, shown in enumerate((pictures, pictures.flip(0))):
        for row in range(3):
            top, left = head + row * cell_height, GAP + column * cell_width
            cell = sheet[:, top : top + 20, left : left + 25]
            assert torch.equal(cell, shown[row].repeat_interleave(5, 1).repeat_interleave(5, 2))


def test_blocks_stand_beside_each_other():
    pictures = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(-1, 3, 30, 30)
    sheet = pixels_of(contact_sheet({'a': pictures}, across=2))
    head, cell = LINE_HEIGHT + GAP, 120 + GAP
    assert sheet.shape == (3, head + 3 * cell, GAP + 2 * cell)
    seen = [sheet[0, head + line * cell, GAP + block * cell].item() for block in range(2) for line in range(3)]
    assert seen == [0, 1, 2, 3, 4, 255]
    assert (sheet[0, :head] < 128).any(0)[GAP + cell :].any(), 'the second block has no labels'


def test_outlines_are_drawn_on_the_column_they_name():
    mask = boxes_to_mask(torch.tensor([[1, 1, 6, 6]]), (10, 10))
    sheet = pixels_of(contact_sheet({'a': plain(1, 10, 10), 'b': plain(1, 10, 10)}, {'b': mask}, edge=20))
    cyan = (sheet == CYAN.view(3, 1, 1)).all(0).nonzero()
    left, top = GAP + 20 + GAP, GAP + LINE_HEIGHT
    assert cyan.amin(0).tolist() == [top + 2, left + 2] and cyan.amax(0).tolist() == [top + 11, left + 11]


def test_texts_make_room():
    pictures = {'a': plain(2, 40, 40)}
    bare = contact_sheet(pictures)
    captioned = contact_sheet(pictures, captions=['one', 'two'])
    assert captioned.height > bare.height and captioned.width == bare.width
    assert (pixels_of(captioned)[:, bare.height :] < 128).any()
    titled = contact_sheet(pictures, titles=['x', 'y' * 60])
    assert titled.height > bare.height and titled.width >= FONT.getlength('y' * 60)
    long = contact_sheet(pictures, captions=['a', 'z' * 60])
    assert long.width >= FONT.getlength('z' * 60)
    assert contact_sheet({'w' * 60: plain(2, 40, 40)}).width >= FONT.getlength('w' * 60)


def test_font_is_scalable():
    assert isinstance(FONT, ImageFont.FreeTypeFont)
