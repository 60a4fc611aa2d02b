"""Contact sheets: what an augmentation did, one row per image, one column per step."""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Saliency runs from black over orange to white; the drawn region is outlined in cyan, which the scale lacks.
HEAT = torch.tensor([[0, 0, 0], [255, 110, 0], [255, 255, 255]], dtype=torch.float32)
OUTLINE = (0, 230, 255)
OUTLINE_WIDTH = 2  # px
GAP = 4  # px between pictures
LINE_HEIGHT = 16  # px
FONT = ImageFont.load_default(12)  # at PIL's own size, 10 px, colons vanish


def to_pixels(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undoes normalisation.

    Args:
        x: Images (B, C, H, W); of more than three channels the first three are shown, of two the first.
        mean: Mean per channel, of pixels in [0, 1].
        std: Standard deviation per channel.

    Returns:
        uint8 (B, 3, H, W) on the CPU.
    """
    x = x.detach().float().cpu()
    mean, std = (x.new_tensor(value).view(1, -1, 1, 1) for value in (mean, std))
    pixels = ((x * std + mean) * 255).round().clamp(0, 255).byte()
    return pixels[:, : 3 if x.shape[1] >= 3 else 1].expand(-1, 3, -1, -1)


def heat(saliency: Tensor) -> Tensor:
    """Colours saliency maps, each scaled to its own 99th percentile so that single pixels do not darken the rest.

    Args:
        saliency: (B, 1, H, W), not negative; what is not finite counts as 0.

    Returns:
        uint8 (B, 3, H, W) on the CPU.
    """
    flat = saliency.detach().float().cpu().flatten(1).nan_to_num(posinf=0.0)
    # Tensor.quantile refuses inputs as large as a few hundred photographs.
    top = flat.kthvalue(int(0.99 * (flat.shape[1] - 1)) + 1, dim=1, keepdim=True).values.clamp(min=1e-30)
    place = (flat / top).clamp(0, 1) * (len(HEAT) - 1)
    low = place.floor().clamp(max=len(HEAT) - 2)
    share = (place - low)[..., None]
    colours = HEAT[low.long()] * (1 - share) + HEAT[low.long() + 1] * share
    return colours.byte().transpose(1, 2).unflatten(2, saliency.shape[-2:])


def outline(pictures: Tensor, mask: Tensor) -> Tensor:
    """Draws the border of marked regions, inside them.

    Args:
        pictures: uint8 (B, 3, H, W).
        mask: bool (B, 1, H, W), True in the regions.

    Returns:
        uint8 (B, 3, H, W), a copy.
    """
    # A pixel is inside if all pixels around it are marked; beyond the image's border nothing is.
    unmarked = F.pad(1 - mask.float(), (OUTLINE_WIDTH,) * 4, value=1.0)
    inside = F.max_pool2d(unmarked, 2 * OUTLINE_WIDTH + 1, stride=1) == 0
    return torch.where(mask & ~inside, torch.tensor(OUTLINE, dtype=torch.uint8).view(3, 1, 1), pictures)


def contact_sheet(
    columns: dict[str, Tensor],
    outlines: dict[str, Tensor] | None = None,
    captions: Sequence[str] = (),
    titles: Sequence[str] = (),
    edge: int = 120,
    across: int = 1,
) -> Image.Image:
    """Lays pictures out in rows and labelled columns, wide enough for every text.

    Args:
        columns: uint8 (B, 3, H, W) by label.
        outlines: bool (B, 1, H, W) by label of the column in which the marked regions are outlined.
        captions: A line below each row.
        titles: Lines above all.
        edge: Shorter edge in pixels that each picture is enlarged to, by whole pixels.
        across: Blocks beside each other that the rows are dealt to, one block after the other.
    """
    rows, _, height, width = next(iter(columns.values())).shape
    scale = max(1, edge // min(height, width))
    # Where each column starts in a block, and where the last one ends.
    lefts = list(accumulate((max(width * scale, _text_width(label)) + GAP for label in columns), initial=0))
    cell_height = height * scale + GAP + (LINE_HEIGHT if captions else 0)
    block_width = max(lefts[-1], *(_text_width(caption) + GAP for caption in captions or ['']))
    block_rows = math.ceil(rows / across)
    head = GAP + LINE_HEIGHT * (len(titles) + 1)
    sheet_width = max(block_width * across, *(_text_width(title) + GAP for title in titles or [''])) + GAP
    sheet = Image.new('RGB', (sheet_width, head + cell_height * block_rows), 'white')
    pen = ImageDraw.Draw(sheet)
    pen.font = FONT
    for line, title in enumerate(titles):
        pen.text((GAP, 2 + line * LINE_HEIGHT), title, fill='black')

    def corner(row: int) -> tuple[int, int]:
        block, line = divmod(row, block_rows)
        return GAP + block * block_width, head + line * cell_height

    for start, (label, pictures) in zip(lefts, columns.items()):
        for row in range(0, rows, block_rows):
            pen.text((corner(row)[0] + start, head - LINE_HEIGHT - 2), label, fill='black')
        large = _enlarge(pictures, scale)
        if outlines and label in outlines:
            large = outline(large, _enlarge(outlines[label].cpu(), scale))
        for row, picture in enumerate(large):
            left, top = corner(row)
            sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left + start, top))
    for row, caption in enumerate(captions):
        left, top = corner(row)
        pen.text((left, top + height * scale), caption, fill='black')
    return sheet


def _enlarge(pictures: Tensor, scale: int) -> Tensor:
    return pictures.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def _text_width(text: str) -> int:
    """Pixels that a line takes."""
    return math.ceil(FONT.getlength(text))
