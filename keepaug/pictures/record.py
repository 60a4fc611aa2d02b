"""A batch on its way through the augmentations, as a picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from PIL import Image
from rich.table import Table
from torch import Tensor

from keepaug.measuring.regions import Shares, Step
from keepaug.pictures.contact_sheet import contact_sheet, heat, to_pixels

# Labels below this share of an image are left out of its caption.
LEAST_SHARE = 0.001
ROWS = 8  # images below each other, before the sheet goes on beside them


class Record(NamedTuple):
    """A batch on its way through the augmentations.

    Attributes:
        title: Model and where its weights are from.
        images: Images (B, C, H, W) that the loader gave; of pairs the clean ones.
        steps: What each augmentation did to them.
        captions: Labels of the results with their shares.
        mean: Mean per channel that was subtracted, of pixels in [0, 1].
        std: Standard deviation per channel that was divided by.
    """

    title: str
    images: Tensor
    steps: list[Step]
    captions: list[str]
    mean: Sequence[float]
    std: Sequence[float]


def draw_sheet(record: Record, shares: Sequence[Shares]) -> Image.Image:
    """Lays out what was recorded: a row per image, columns per step, the shares above and the labels below."""
    columns, outlines = {'image': to_pixels(record.images, record.mean, record.std)}, {}
    for step in record.steps:
        of_step, outlined = step_columns(step, record.mean, record.std)
        columns |= of_step
        outlines |= outlined
    return contact_sheet(
        columns,
        outlines,
        captions=record.captions,
        titles=[record.title, *map(describe_shares, shares)],
        across=math.ceil(len(record.images) / ROWS),
    )


def step_columns(
    step: Step, mean: Sequence[float], std: Sequence[float]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pictures of a step by label, and the masks to outline, by the label of the picture they belong on."""
    shown = {**step.drawn, 'saliency': step.saliency}
    size = step.result.shape[-2:]
    columns, outlines = {}, {}
    for name, (label, is_map) in step.method.pictures.items():
        picture = shown.get(name)
        if picture is None:
            continue
        if is_map:
            maps = picture if picture.ndim == 4 else picture[:, None]
            columns[f'{step.name}: {label}'] = heat(F.interpolate(maps.float(), size))
        else:
            columns[f'{step.name}: {label}'] = to_pixels(picture, mean, std)
    if step.mask is not None:
        outlines[f'{step.name}: {step.method.pictures["saliency"][0]}'] = step.mask
    return {**columns, f'{step.name}: result': to_pixels(step.result, mean, std)}, outlines


def share_table(shares: Sequence[Shares], images: int) -> Table:
    """The shares for the screen."""
    table = Table(
        title=f'Share of image and saliency in the region, mean over the images that have one, of {images}',
        caption='Own map: what the region was drawn by. Full pass: the same judge for every flag; compare it with that '
        'of a region drawn blindly, --keep-tau none.',
    )
    for column in ('augmentation', 'region', 'images', 'of the image', 'of the saliency, own map', '... full pass'):
        table.add_column(column, justify='left' if column in ('augmentation', 'region') else 'right')
    for row in shares:
        table.add_row(row.name, row.region, str(row.count), *map(percent, (row.area, row.own, row.full)))
    return table


def describe_shares(row: Shares) -> str:
    """The shares for the sheet."""
    if not row.count:
        return f'{row.name}: no region in any image'
    return f'{row.name}: {percent(row.area)} of the image, {percent(row.full)} of the saliency {row.region}'


def percent(share: float | None) -> str:
    return '-' if share is None or share != share else f'{100 * share:.1f} %'


def label_captions(target: Tensor, names: Mapping[int, str]) -> Iterator[str]:
    """Each image's labels with their shares, the largest first.

    Args:
        target: Class indices (B,), or shares (B, K).
        names: Names by class index; the index stands for a class without one.
    """
    if target.ndim == 1:
        target = F.one_hot(target)
    for shares in target.float().cpu():
        order = shares.argsort(descending=True, stable=True).tolist()
        yield ', '.join(
            f'{names.get(index, index)}: {100 * shares[index]:.3g} %' for index in order if shares[index] > LEAST_SHARE
        )
