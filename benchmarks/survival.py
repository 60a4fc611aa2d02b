"""How much of the evidence survives an augmentation: published, blind, and by saliency.

    python benchmarks/survival.py --data-dir /data/cifar10 --model cifar_resnet18 --checkpoint last.pth.tar \
        --output benchmarks/results/survival-cifar10 --picture survival.png

The evidence is the tenth of an image's pixels that the trained model is most sensitive to: the top decile of the full
saliency map of its label on the clean image. This map judges every row, so that KeepCutout with the full pass chooses
by its own judge; the other passes do not.

Cutting: the share of the top decile that is not removed. The blind window is KeepCutout's control: the same window,
inside the image, drawn without looking. The published Cutout may overflow the border and removes less; the share of
the image that each removes stands beside.

Policies: the share of the top decile whose pixels differ from the clean image by less than 1/255 in every channel, at
the same place. Geometry moves evidence without destroying it, and counts as change here; colour counts even where it is
mild. The number therefore says how much of the evidence stays untouched, not how much stays legible. KeepRandAugment
pastes a window of the clean image back; the share of the top decile in that window stands beside.

Means over images with their 95% interval; the gain is that over the same window drawn blindly, paired by image.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from saliency_agreement import interval, load
from timm.data import create_dataset, create_transform, resolve_data_config
from timm.utils import ParseKwargs, random_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import Compose
from torchvision.transforms.functional import pil_to_tensor

from keepaug import EarlyExit, create_augment
from keepaug.augment import BatchAugment
from keepaug.augment.base import default_window
from keepaug.augment.saliency import PASSES
from keepaug.console.errors import explain_errors
from keepaug.data.loaders import mend_posterize
from keepaug.data.transform import TransformChanges
from keepaug.functional import input_saliency
from keepaug.machine import describe_machine
from keepaug.options.shared import add_input_shape
from keepaug.pictures.contact_sheet import contact_sheet, heat

TOP_SHARE = 0.1
PICTURED = 8  # images
PICTURED_KIND = 'low'  # the default of --keep-saliency
BLIND_CUT, BLIND_PASTE = 'blind window', 'blind window pasted'


class Batch(NamedTuple):
    """Images as bytes and normalised, clean and after the policy, their labels, and where their evidence lies.

    Attributes:
        pixels: uint8 (B, C, H, W) `clean` and `augmented`.
        x: The same, normalised.
        target: int64 (B,).
        top: bool (B, 1, H, W), True on the top decile of the judge's map.
    """

    pixels: tuple[Tensor, Tensor]
    x: tuple[Tensor, Tensor]
    target: Tensor
    top: Tensor


class Outcome(NamedTuple):
    """What an augmentation did to a batch.

    Attributes:
        left: bool (B, 1, H, W), True where the clean image is still there.
        window: bool (B, 1, H, W), True in the pasted window; None where nothing is pasted.
        pixels: uint8 (B, C, H, W), the result.
    """

    left: Tensor
    window: Tensor | None
    pixels: Tensor


class CleanAndAugmented(Dataset):
    """The crop of validation, before and after a policy, as bytes (C, H, W).

    Args:
        dataset: Image folder.
        crop: Image to crop.
        policy: Image to image.
    """

    def __init__(self, dataset: Dataset, crop: Callable, policy: Callable):
        self.dataset = dataset
        self.crop = crop
        self.policy = policy

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        image, target = self.dataset[index]
        clean = self.crop(image)
        return pil_to_tensor(clean), pil_to_tensor(self.policy(clean)), target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-dir', required=True, help='image folder')
    parser.add_argument('--split', default='val')
    parser.add_argument('--model', default='cifar_resnet18')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs)
    add_input_shape(parser)
    parser.add_argument('--checkpoint', help='trained model, best with an early head; unset: untrained')
    parser.add_argument('--samples', type=int, default=2000)
    parser.add_argument('--size', type=int, help='edge of every window in pixels; unset: 16 below 96 px, else 40')
    parser.add_argument('--tau', type=float, default=0.6)
    parser.add_argument('--aa', default='rand-m9-mstd0.5', help="policy, in timm's words")
    parser.add_argument('-b', '--batch-size', type=int, default=100)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', type=Path, help='results go to this name with .txt and .json')
    parser.add_argument('--picture', type=Path, help='contact sheet of the first images')
    args = parser.parse_args()

    random_seed(args.seed)
    folder = create_dataset('', args.data_dir, split=args.split)
    args.num_classes = len(folder.reader.class_to_idx)
    device = torch.device(args.device)
    model = (load(args) if args.checkpoint else untrained(args)).to(device).eval()
    config = resolve_data_config(vars(args), model=model.backbone if isinstance(model, EarlyExit) else model)
    edge = args.size or default_window(*config['input_size'][1:])
    chosen = torch.randperm(len(folder))[: args.samples].tolist()
    loader = DataLoader(Subset(build_dataset(folder, config, args.aa), chosen), args.batch_size)
    cuts, pastes = build_augments(model, edge, args.tau)

    values, sheet = defaultdict(lambda: defaultdict(list)), None
    generators = {name: torch.Generator().manual_seed(args.seed) for name in (*cuts, *pastes)}
    for clean, augmented, target in loader:
        batch = judge(model, clean.to(device), augmented.to(device), target.to(device), config)
        outcomes = apply_all(batch, cuts, pastes, generators)
        for name, outcome in outcomes.items():
            for key, shares in measure(batch.top, outcome).items():
                values[name][key].append(shares)
        if sheet is None and args.picture:
            sheet = draw(model, batch, outcomes, {index: name for name, index in folder.reader.class_to_idx.items()})

    rows = summarise({name: {key: torch.cat(parts) for key, parts in row.items()} for name, row in values.items()})
    machine = describe_machine(args.device)
    table = tabulate(rows, f'{args.model}, {config["input_size"][-1]} px, window {edge} px, tau {args.tau}, {args.aa}')
    origin = f'checkpoint {Path(args.checkpoint).name}' if args.checkpoint else 'untrained'
    note = f'{origin}, n = {len(chosen)} of {args.split}, seed {args.seed}, {machine}'
    Console(width=110).print(table, note)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with open(f'{args.output}.txt', 'w') as file:
            Console(file=file, width=110).print(table, note)
        record = dict(
            model=args.model,
            checkpoint=origin,
            size=config['input_size'],
            window=edge,
            tau=args.tau,
            policy=args.aa,
            split=args.split,
            samples=len(chosen),
            seed=args.seed,
            machine=machine,
            date=time.strftime('%Y-%m-%d'),
            rows=rows,
        )
        Path(f'{args.output}.json').write_text(json.dumps(record, indent=1) + '\n')
    if sheet is not None:
        sheet.save(args.picture)


def untrained(args) -> torch.nn.Module:
    return EarlyExit(timm.create_model(args.model, num_classes=args.num_classes, **args.model_kwargs))


def build_dataset(folder: Dataset, config: dict, policy: str) -> CleanAndAugmented:
    """The folder's images in the model's size, and what the policy makes of them with the settings of training."""
    mend_posterize()
    settings = dict(
        input_size=config['input_size'], interpolation=config['interpolation'], mean=config['mean'], use_prefetcher=True
    )
    steps = create_transform(**settings, crop_pct=config['crop_pct']).transforms
    training = create_transform(**settings, is_training=True, auto_augment=policy, color_jitter=None)
    policy = TransformChanges(paired=True).apply(training).policy
    return CleanAndAugmented(folder, Compose(steps[:-1]), policy)  # the last step makes a tensor


def build_augments(
    model: torch.nn.Module, edge: int, tau: float
) -> tuple[dict[str, BatchAugment], dict[str, BatchAugment]]:
    """What cuts and what pastes, by name; early passes where the model has an early head."""
    kinds = [kind for kind, way in PASSES.items() if isinstance(model, EarlyExit) or not way.early]
    cuts = {
        'Cutout, published': create_augment('cutout', size=edge),
        BLIND_CUT: create_augment('keep-cut', size=edge, tau=None),
        **{
            f'KeepCutout, {kind}': create_augment('keep-cut', model=model, size=edge, tau=tau, saliency=kind)
            for kind in kinds
        },
    }
    pastes = {
        BLIND_PASTE: create_augment('keep-paste', size=edge, tau=None),
        **{
            f'KeepRandAugment, {kind}': create_augment('keep-paste', model=model, size=edge, tau=tau, saliency=kind)
            for kind in kinds
        },
    }
    return cuts, pastes


def judge(model: torch.nn.Module, clean: Tensor, augmented: Tensor, target: Tensor, config: dict) -> Batch:
    """Finds the evidence in clean images by the full pass of the whole model."""
    mean, std = (torch.tensor(config[name], device=clean.device).view(1, -1, 1, 1) for name in ('mean', 'std'))
    x = tuple((pixels / 255.0 - mean) / std for pixels in (clean, augmented))
    saliency = input_saliency(model.backbone if isinstance(model, EarlyExit) else model, x[0], target)
    return Batch((clean, augmented), x, target, top_share(saliency))


def top_share(saliency: Tensor, share: float = TOP_SHARE) -> Tensor:
    """Marks the most salient pixels, bool (B, 1, H, W): as many in each map (B, 1, H, W)."""
    flat = saliency.flatten(1)
    places = flat.topk(max(1, round(share * flat.shape[1])), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, places, True).view_as(saliency)


def apply_all(
    batch: Batch,
    cuts: dict[str, BatchAugment],
    pastes: dict[str, BatchAugment],
    generators: dict[str, torch.Generator],
) -> dict[str, Outcome]:
    """Every augmentation on the same batch, each with its own stream of random numbers."""
    clean, augmented = batch.pixels
    outcomes = {}
    for name, cut in cuts.items():
        cut(batch.x[0], batch.target, generators[name])
        removed = cut.last['mask']
        outcomes[name] = Outcome(~removed, None, torch.where(removed, 128, clean))
    # Bytes, so that less than 1/255 apart is equal.
    unchanged = (clean == augmented).all(1, keepdim=True)
    outcomes['RandAugment'] = Outcome(unchanged, None, augmented)
    for name, paste in pastes.items():
        paste(torch.cat(batch.x), batch.target, generators[name])
        window = paste.last['mask']
        outcomes[name] = Outcome(unchanged | window, window, torch.where(window, clean, augmented))
    return outcomes


def measure(top: Tensor, outcome: Outcome) -> dict[str, Tensor]:
    """Shares (B,): of the top decile that is left and that lies in the window, of the image that is not left."""

    def of_top(mask: Tensor) -> Tensor:
        return ((top & mask).sum((1, 2, 3)) / top.sum((1, 2, 3))).cpu()

    shares = dict(left=of_top(outcome.left), changed=(~outcome.left).float().mean((1, 2, 3)).cpu())
    return shares if outcome.window is None else shares | dict(window=of_top(outcome.window))


def summarise(values: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and 95% interval of every share (N,), and of the gain over the same window drawn blindly."""
    rows = {}
    for name, row in values.items():
        rows[name] = {key: interval(shares) for key, shares in row.items()}
        blind = {'KeepCutout': BLIND_CUT, 'KeepRandAugment': BLIND_PASTE}.get(name.split(',')[0])
        if blind is not None:
            rows[name]['gain'] = interval(row['left'] - values[blind]['left'])
    return rows


def tabulate(rows: dict[str, dict[str, dict[str, float]]], title: str) -> Table:
    table = Table(
        title=title,
        caption=(
            'Top decile of saliency: full map of the trained model on the clean image. Left: not removed, or changed '
            'by less than 1/255; under geometry that is not how much stays legible. In the window: that was pasted '
            'back. Gain: over the same window drawn blindly, paired by image. Means with their 95 % interval.'
        ),
    )
    columns = dict(
        changed='image changed, %', left='top decile left, %', window='in the window, %', gain='gain, points'
    )
    for column in ('augmentation', *columns.values()):
        table.add_column(column, justify='left' if column == 'augmentation' else 'right')
    for name, row in rows.items():
        table.add_row(
            name,
            *(f'{100 * row[key]["mean"]:.1f} ± {100 * row[key]["half"]:.1f}' if key in row else '' for key in columns),
        )
    return table


def draw(model: torch.nn.Module, batch: Batch, outcomes: dict[str, Outcome], names: dict[int, str]) -> Image.Image:
    """First images, their evidence, and what each augmentation makes of them; the caption says how much is left."""
    shown = slice(PICTURED)
    others = set(PASSES) - {PICTURED_KIND}
    outcomes = {name: outcome for name, outcome in outcomes.items() if name.split(', ')[-1] not in others}
    bare = model.backbone if isinstance(model, EarlyExit) else model
    saliency = input_saliency(bare, batch.x[0][shown], batch.target[shown])
    clean, top = batch.pixels[0][shown].cpu(), batch.top[shown].cpu()
    columns = {'image': clean, 'saliency, full': heat(saliency), 'top decile': torch.where(top, clean, clean // 4)}
    outlines = {}
    for name, outcome in outcomes.items():
        columns[name] = outcome.pixels[shown].cpu()
        if outcome.window is not None:
            outlines[name] = outcome.window[shown].cpu()
    left = {name: measure(batch.top, outcome)['left'] for name, outcome in outcomes.items()}
    captions = [
        f'{names[label]}   left: ' + '   '.join(f'{name} {100 * shares[row]:.0f} %' for name, shares in left.items())
        for row, label in enumerate(batch.target[shown].tolist())
    ]
    return contact_sheet(columns, outlines, captions)


if __name__ == '__main__':
    explain_errors(main)
