"""A batch on its way through the augmentations, as a picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from PIL import Image
from rich.table import Table
from torch import Tensor

from keepaug.measuring.regions import Shares, Step
from keepaug.measuring.windows import DRAWS, Trial
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

    def first(self, count: int) -> 'Record':
        """The record of the first images alone."""
        return self._replace(
            images=self.images[:count],
            steps=[step.first(count) for step in self.steps],
            captions=self.captions[:count],
        )


def draw_sheet(record: Record, shares: Sequence[Shares | Trial]) -> Image.Image:
    """Lays out what was recorded: a row per image, columns per step, the shares above and the labels below."""
    columns = {'image': to_pixels(record.images, record.mean, record.std)}
    outlines: dict[str, Tensor] = {}
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
        labels = (f'{step.name}: {step.method.pictures[name][0]}' for name in step.method.outlined)
        outlines = {label: step.mask for label in labels if label in columns}
    return {**columns, f'{step.name}: result': to_pixels(step.result, mean, std)}, outlines


def share_table(rows: Sequence[Shares | Trial], images: int) -> Table:
    """The shares for the screen, keep-cut and keep-paste beside their controls."""
    caption = 'Saliency: that of the full pass, the same judge for every row.'
    columns = ['augmentation', 'region', 'images', 'of the image', 'of the saliency']
    trials = [row for row in rows if isinstance(row, Trial)]
    if trials:
        columns[2:2] = ['window', 'tau']
        columns += ['drawn blindly', 'kept beyond that']
        caption += (
            f' Drawn blindly: the same windows as with --keep-tau none, {DRAWS} draws per image. Kept beyond that: how '
            'much more of the saliency is spared, with its 95% interval over images.'
        )
    if len({row.name for row in trials}) < len(trials):
        caption += ' The first window of an augmentation is that of the run.'
    table = Table(title=f'What lies in the region, mean over the images that have one, of {images}', caption=caption)
    for column in columns:
        table.add_column(column, justify='left' if column in ('augmentation', 'region') else 'right')
    for row in rows:
        window = describe_window(row) if isinstance(row, Trial) else ('-', '-')
        control = describe_control(row) if isinstance(row, Trial) else ('-', '-')
        table.add_row(
            row.name,
            row.region,
            *(window if trials else ()),
            str(row.count),
            percent(row.area),
            percent(row.saliency),
            *(control if trials else ()),
        )
    return table


def describe_window(trial: Trial) -> tuple[str, str]:
    """Edge and quantile of a window, in words."""
    size, tau = trial.window
    return '-' if size is None else f'{size} px', 'none' if tau is None else f'{tau:g}'


def describe_control(trial: Trial) -> tuple[str, str]:
    """The share of the saliency in windows drawn blindly, and how much more is kept than there."""
    if trial.blind is None:
        return '-', '-'
    gain, half = trial.gain
    return percent(trial.controls.nanmean().item()), f'{100 * gain:+.1f} ± {100 * half:.1f} points'


def describe_shares(row: Shares | Trial) -> str:
    """The shares for the sheet."""
    if not row.count:
        return f'{row.name}: no region in any image'
    name, control = row.name, ''
    if isinstance(row, Trial):
        size, tau = describe_window(row)
        name += ', '.join(['', *filter(lambda part: part != '-', [size]), f'tau {tau}'])
        if row.blind is not None:
            control = f', {describe_control(row)[0]} drawn blindly'
    return f'{name}: {percent(row.area)} of the image, {percent(row.saliency)} of the saliency {row.region}{control}'


def percent(share: float | None) -> str:
    return '-' if share is None or share != share else f'{100 * share:.1f} %'


def label_captions(target: Tensor | None, names: Mapping[int, str], count: int) -> Iterator[str]:
    """Each image's labels with their shares, the largest first.

    Args:
        target: Class indices (B,), or shares (B, K); None for images without labels.
        names: Names by class index; the index stands for a class without one.
        count: Images B.
    """
    if target is None:
        yield from ['no label'] * count
        return
    if target.ndim == 1:
        target = F.one_hot(target)
    for shares in target.float().cpu():
        order = shares.argsort(descending=True, stable=True).tolist()
        yield ', '.join(
            f'{names.get(index, index)}: {100 * shares[index]:.3g} %' for index in order if shares[index] > LEAST_SHARE
        )
