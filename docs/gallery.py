"""The picture of what each method does: `python docs/gallery.py demo/runs/keep-cut-full-0/last.pth.tar`.

On digits the saliency is that of the network that `make demo` has trained, and the methods are those of a run. On
photographs (from scikit-image: coffee by Rachel Michetti and cat by Stefan van der Walt, CC0; astronaut by NASA, public
domain) no network is at hand: the evidence is marked by hand, and the methods' own functions do the rest.
"""

import argparse
import random
from pathlib import Path

import skimage.data
import timm
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

import keepaug
from keepaug import functional
from keepaug.datasets import ClutteredDigits
from keepaug.demo import MEAN, MODEL, MODEL_KWARGS, STD
from keepaug.pictures.contact_sheet import heat, outline, to_pixels

EDGE = 160  # px of each picture here
GAP = 6  # px
SEED = 7
SMALL, LARGE = ImageFont.load_default(13), ImageFont.load_default(16)
LABEL = 150  # px, left of each row
COLUMNS = ('image', 'beside it', 'evidence', 'result', 'photograph', 'result')
# Where the evidence is in each photograph: x, y, and radius, as shares of its edge.
EVIDENCE = {'coffee': (0.5, 0.45, 0.3), 'cat': (0.5, 0.4, 0.28), 'astronaut': (0.44, 0.24, 0.2)}
ROWS = {
    'keep-cut': 'removes where\nlittle is salient',
    'keep-paste': 'puts the salient\nwindow back after\na policy',
    'KeepCutMix': "another image's\npixels, where little\nis salient",
    'Attentive CutMix': "another image's\npatches that a\nteacher looks at",
    'joint occlusion': 'whole and occluded\nin one batch',
}


def digits(checkpoint: str) -> list[list[Tensor | None]]:
    """Image, what comes beside it, evidence with the region drawn, and result of each method; uint8 (3, H, W)."""
    model = timm.create_model(MODEL, num_classes=10, checkpoint_path=checkpoint, **MODEL_KWARGS).eval()
    data = ClutteredDigits('train')
    chosen = (0, 9, 5, 20, 3)
    pixels = torch.stack([data.image(index) for index in chosen])
    target = torch.tensor([data.target(index) for index in chosen])
    changed = torch.stack([apply_policy(image) for image in pixels])
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    x, policed = ((part / 255 - mean) / std for part in (pixels, changed))
    shared = {'model': model, 'num_classes': 10}
    augments = (
        keepaug.create_augment('keep-cut', size=16, saliency='full', **shared),
        keepaug.create_augment('keep-paste', size=20, saliency='full', **shared),
        keepaug.create_augment('keep-cut', mode='cutmix', saliency='full', **shared),
        keepaug.create_augment('attentive-cutmix', teacher=model, patches=5, grid=5, teacher_size=(160, 160), **shared),
        keepaug.create_augment('joint-occlusion', **shared),
    )
    rows = []
    for row, augment in enumerate(augments):
        batch = (torch.cat([x, policed]), target.repeat(2)) if augment.rows_per_sample == 2 else (x, target)
        result, _ = augment(*batch, torch.Generator().manual_seed(SEED))
        drawn = augment.last
        evidence = drawn.get('grid', drawn.get('saliency'))
        if evidence is not None:
            evidence = heat(F.interpolate(evidence.float().view(len(x), 1, *evidence.shape[-2:]), x.shape[-1]))
            evidence = outline(evidence.repeat_interleave(4, -2).repeat_interleave(4, -1), enlarged(drawn['mask'], 4))[
                row
            ]
        beside = changed[row] if augment.rows_per_sample == 2 else None
        if 'partner' in drawn:
            beside = pixels[drawn['partner'][row]]
        rows.append(
            [pixels[row], beside, evidence, to_pixels(result, MEAN, STD)[row - len(x)]]
        )  # occluded rows come last
    return rows


def photographs() -> list[list[Tensor]]:
    """A photograph and what each method makes of it, uint8 (3, H, W)."""
    coffee, cat, astronaut = (load_photograph(name) for name in EVIDENCE)
    maps = {name: mark_evidence(*place) for name, place in EVIDENCE.items()}
    draw = torch.Generator().manual_seed(SEED)

    def region(name: str, edge: int, side: str) -> Tensor:
        scores = functional.region_scores(maps[name], (edge, edge))
        boxes = functional.sample_regions(scores, (edge, edge), 0.3 if side == 'low' else 0.97, side, draw)
        return functional.boxes_to_mask(boxes, (EDGE, EDGE))[0]

    grid = F.adaptive_avg_pool2d(maps['astronaut'], 7)[:, 0]
    patches = functional.top_patches_mask(grid, 8, (EDGE, EDGE))[0]
    hidden = functional.hide_and_seek_mask(1, (EDGE, EDGE), 4, 0.5, generator=draw)[0]
    grey = torch.full_like(coffee, 127)
    return [
        [coffee, torch.where(region('coffee', 64, 'low'), grey, coffee)],
        [cat, torch.where(region('cat', 80, 'high'), cat, apply_policy(cat))],
        [coffee, torch.where(region('coffee', 72, 'low'), cat, coffee)],
        [cat, torch.where(patches, astronaut, cat)],
        [astronaut, torch.where(hidden, grey, astronaut)],
    ]


def apply_policy(image: Tensor) -> Tensor:
    random.seed(SEED)
    policy = rand_augment_transform('rand-n2-m9', {'img_mean': (127, 127, 127)})
    return pil_to_tensor(policy(to_pil_image(image)))


def load_photograph(name: str) -> Tensor:
    """The middle square of a photograph that scikit-image ships, uint8 (3, EDGE, EDGE)."""
    photograph = Image.fromarray(getattr(skimage.data, name)()).convert('RGB')
    return pil_to_tensor(ImageOps.fit(photograph, (EDGE, EDGE), Image.Resampling.LANCZOS))


def mark_evidence(x: float, y: float, radius: float) -> Tensor:
    """A map (1, 1, EDGE, EDGE) that falls off from a place, all as shares of the edge."""
    place = (torch.arange(EDGE) + 0.5) / EDGE
    squared = (place[None, :] - x) ** 2 + (place[:, None] - y) ** 2
    return torch.exp(-squared / radius**2)[None, None]


def enlarged(pictures: Tensor, scale: int) -> Tensor:
    return pictures.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def draw(rows: list[list[Tensor | None]]) -> Image.Image:
    """All of it, one method per row."""
    cell = EDGE + GAP
    sheet = Image.new('RGB', (LABEL + len(COLUMNS) * cell, 28 + len(rows) * cell), 'white')
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(COLUMNS):
        pen.text((LABEL + column * cell, 6), label, fill='black', font=SMALL)
    for row, ((name, words), pictures) in enumerate(zip(ROWS.items(), rows)):
        top = 28 + row * cell
        pen.text((GAP, top + 30), name, fill='black', font=LARGE)
        pen.text((GAP, top + 54), words, fill='#444444', font=SMALL)
        for column, picture in enumerate(pictures):
            if picture is not None:
                shown = to_pil_image(enlarged(picture, EDGE // picture.shape[-1]))
                sheet.paste(shown, (LABEL + column * cell, top))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', help='network that make demo has trained')
    parser.add_argument('--output', type=Path, default=Path(__file__).with_name('methods.png'))
    args = parser.parse_args()
    draw([left + right for left, right in zip(digits(args.checkpoint), photographs())]).save(args.output)


if __name__ == '__main__':
    main()
