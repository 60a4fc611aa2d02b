"""Contact sheets: what an augmentation did, one row per image, one column per step."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

# Saliency runs from black over orange to white; the drawn region is outlined in cyan, which the scale lacks.
HEAT = torch.tensor([[0, 0, 0], [255, 110, 0], [255, 255, 255]], dtype=torch.float32)
OUTLINE = (0, 230, 255)
GAP = 4  # px between pictures
LABEL_HEIGHT = 16  # px, enough for PIL's built-in font


def to_pixels(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Undoes normalisation.

    Args:
        x: Images (B, C, H, W) with one or three channels.
        mean: Mean per channel, of pixels in [0, 1].
        std: Standard deviation per channel.

    Returns:
        uint8 (B, 3, H, W) on the CPU.
    """
    mean, std = (x.new_tensor(value).view(1, -1, 1, 1) for value in (mean, std))
    pixels = ((x * std + mean) * 255).round().clamp(0, 255).byte().cpu()
    return pixels.expand(-1, 3, -1, -1)


def heat(saliency: Tensor) -> Tensor:
    """Colours saliency maps, each scaled to its own 99th percentile so that single pixels do not darken the rest.

    Args:
        saliency: (B, 1, H, W), not negative.

    Returns:
        uint8 (B, 3, H, W) on the CPU.
    """
    flat = saliency.detach().float().cpu().flatten(1)
    top = flat.quantile(0.99, dim=1, keepdim=True).clamp(min=1e-30)
    place = (flat / top).clamp(0, 1) * (len(HEAT) - 1)
    low = place.floor().clamp(max=len(HEAT) - 2)
    share = (place - low)[..., None]
    colours = HEAT[low.long()] * (1 - share) + HEAT[low.long() + 1] * share
    return colours.byte().transpose(1, 2).unflatten(2, saliency.shape[-2:])


def contact_sheet(columns: dict[str, Tensor], boxes: dict[str, Tensor] | None = None, edge: int = 120) -> Image.Image:
    """Lays pictures out in rows and labelled columns.

    Args:
        columns: uint8 (B, 3, H, W) by label.
        boxes: int (B, 4) XYXY half-open by label of the column to outline them in; empty boxes are left out.
        edge: Shorter edge in pixels that each picture is enlarged to, by whole pixels.
    """
    boxes = boxes or {}
    rows, _, height, width = next(iter(columns.values())).shape
    scale = max(1, edge // min(height, width))
    cell_height, cell_width = height * scale + GAP, width * scale + GAP
    sheet = Image.new('RGB', (cell_width * len(columns) + GAP, cell_height * rows + LABEL_HEIGHT + GAP), 'white')
    pen = ImageDraw.Draw(sheet)
    for column, (label, pictures) in enumerate(columns.items()):
        left = GAP + column * cell_width
        pen.text((left, 2), label, fill='black')
        large = F.interpolate(pictures.float(), scale_factor=scale, mode='nearest').byte()
        for row, picture in enumerate(large):
            top = LABEL_HEIGHT + GAP + row * cell_height
            sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (left, top))
            if label in boxes:
                x0, y0, x1, y1 = (boxes[label][row].cpu() * scale).tolist()
                if x1 > x0 and y1 > y0:
                    pen.rectangle((left + x0, top + y0, left + x1 - 1, top + y1 - 1), outline=OUTLINE, width=2)
    return sheet
