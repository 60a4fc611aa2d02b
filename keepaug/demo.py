"""The main job on the embedded data set: train without a cut, with blind cuts and with keep-cut, and show the cuts.

    keepaug-demo --output demo

or, in a checkout, `python -m keepaug.demo`. The runs are those of the first seed of the study
`hparams/studies/digits.yaml`, made by `train.py` itself.
"""

import argparse
import csv
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from timm.utils import setup_default_logging

import keepaug
from keepaug import options
from keepaug.augment.base import BatchAugment, call
from keepaug.console.errors import explain_errors
from keepaug.datasets import ClutteredDigits
from keepaug.files.drafts import whole_file
from keepaug.files.outputs import check_output_folder
from keepaug.installation import HOME, RECIPES, command
from keepaug.machine import describe_machine
from keepaug.options import shared
from keepaug.options.flag_ranges import range_rows
from keepaug.pictures.contact_sheet import contact_sheet, heat, to_pixels
from keepaug.study.clock import read_clock
from keepaug.study.command import Reporter, Scheduler
from keepaug.study.plan import plan_runs
from keepaug.study.runs import Slot, StudyRun
from keepaug.study.statistics import difference_of, spread_of
from keepaug.study.study import read_study

STUDY = RECIPES / 'studies' / 'digits.yaml'
STUDIED = HOME / 'benchmarks' / 'results' / 'digits.csv'  # what the study gave with several seeds
NONE, BLIND, FULL, RECYCLED = ARMS = ('none', 'blind window', 'keep-cut, full', 'keep-cut, recycled')
# What the study says of its data, network and cut.
MODEL = 'resnet10t'
MODEL_KWARGS: dict[str, Any] = {'channels': (16, 32, 64, 128), 'stem_width': 8}
MEAN = STD = (0.5, 0.5, 0.5)
IMAGES = 2000
SIZE = 40  # px
CUT = 16  # px
WIDTH = 80  # characters of the table


def create_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    words = shlex.join(command('demo'))
    parser = shared.Parser(
        prog=words,
        description=__doc__.splitlines()[0],
        epilog=f'example: {words} --output demo',
    )
    parser.add_argument(
        '--output',
        type=Path,
        default=Path('demo'),
        metavar='DIR',
        help='folder for the runs, the table and the picture',
    )
    parser.add_argument(
        '--images', type=int, default=1000, help='number of images on which the share of digit pixels is measured'
    )
    parser.add_argument('--epochs', type=int, metavar='N', help="epochs of each run; unset: the study's 51")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = create_parser().parse_args(argv)
    options.refuse(range_rows(args))
    check_output_folder(args.output, '--output')
    setup_default_logging()
    start = time.time()

    runs = train(args.output, args.epochs)
    cuts = build_cuts(runs)
    shares = {NONE: (100.0, 0.0)} | {name: measure_cuts(cut, args.images) for name, cut in cuts.items()}
    table = draw_table(runs, shares)
    console = Console(width=WIDTH)
    console.print(table)
    with whole_file(args.output / 'table.txt') as draft, open(draft, 'w') as file:
        Console(file=file, width=WIDTH).print(table)
        file.write(f'{describe_machine()}, {args.images} images\n')
    picture = draw_sheet(cuts[BLIND], cuts[FULL])
    with whole_file(args.output / 'keep-cut.png') as draft:
        picture.save(draft)
    console.print(f'Picture: {args.output}/keep-cut.png   took {time.time() - start:.0f} s')


def train(output: Path, epochs: int | None = None) -> dict[str, StudyRun]:
    """Trains the arms with the first seed, two at a time, and validates the last one; the runs by their arms' names.

    Raises:
        ValueError: A run failed.
        SystemExit: The validation failed; its own message is on the screen.
    """
    study = read_study(str(STUDY))
    flags = [] if epochs is None else ['--epochs', str(epochs), '--warmup-epochs', '0']
    runs = plan_runs(study, output, 1, ARMS, flags=flags)
    slots = [Slot.read('cpu:1')] * min(2, os.cpu_count() or 1)
    print(f'{len(runs)} runs, {len(slots)} at a time: about five minutes on two cores. Their logs: {output}/runs')
    for run in runs:
        print(f'\n$ {shlex.join([*command("train"), *run.command(slots[0])[len(slots[0].launcher) :]])}')
    print(flush=True)
    arms = tuple(arm for arm in study.arms if arm.name in ARMS)
    compare = tuple(pair for pair in study.compare if set(pair) <= set(ARMS))
    Scheduler(runs, slots, Quiet(replace(study, arms=arms, compare=compare), runs, output, study.title, slots)).run()
    kwargs = ' '.join(f'{name}={value}'.replace(' ', '') for name, value in MODEL_KWARGS.items())
    validate = (
        f'--dataset keepaug/cluttered-digits --model {MODEL} --model-kwargs {kwargs} --num-classes 10 '
        f'--img-size {SIZE} --mean 0.5 --std 0.5 --crop-pct 1 --device cpu -j 0 --checkpoint'
    )
    words = [*validate.split(), str(runs[-1].folder / 'last.pth.tar')]
    print(f'\n$ {shlex.join([*command("validate"), *words])}', flush=True)
    done = subprocess.run([sys.executable, '-m', 'keepaug.validate', *words], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)
    return {run.arm.name: run for run in runs}


class Quiet(Reporter):
    """Writes the report of the runs, and leaves the screen to the demo's own lines and table."""

    def show(self) -> None:
        self.write()

    def forecast(self) -> str:
        return ''  # nobody asks for how long more seeds take


def build_cuts(runs: Mapping[str, StudyRun]) -> dict[str, BatchAugment]:
    """The cuts as they were at the end of the runs, by the arms' names."""
    model = timm.create_model(
        MODEL, num_classes=10, checkpoint_path=runs[FULL].folder / 'last.pth.tar', **MODEL_KWARGS
    ).eval()
    maps = keepaug.SaliencyMaps(IMAGES)
    (kept,) = runs[RECYCLED].folder.glob('saliency-maps-*.pt')
    held = torch.load(kept, weights_only=True)
    maps.levels, maps.scales = held['levels'], held['scales']
    return {
        BLIND: keepaug.create_augment('keep-cut', size=CUT, tau=None),
        FULL: keepaug.create_augment('keep-cut', model=model, num_classes=10, size=CUT, saliency='full'),
        RECYCLED: keepaug.create_augment('keep-cut', size=CUT, saliency='recycled', maps=maps),
    }


def load_batch(indices: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images (B, 3, 40, 40) as the runs normalise them, classes (B,), and digit masks bool (B, 1, 40, 40)."""
    data = ClutteredDigits('train')
    images = torch.stack([data.image(index) for index in indices]).float().div(255)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    targets = torch.tensor([data.target(index) for index in indices])
    return (images - mean) / std, targets, torch.stack([data.mask(index) for index in indices])[:, None]


def measure_cuts(cut: BatchAugment, images: int, seed: int = 0) -> tuple[float, float]:
    """Share of the digit's pixels that a cut leaves, and of the image it removes, in percent, over training images."""
    kept, removed, generator = [], [], torch.Generator().manual_seed(seed)
    for first in range(0, images, 250):
        indices = range(first, min(first + 250, images))
        x, target, digit = load_batch(indices)
        # Whole images, neither cropped nor flipped.
        where = torch.tensor([[index, SIZE, SIZE, 0, 0, SIZE, SIZE, 0, 0] for index in indices])
        call(cut, x, target, generator, where)
        mask = cut.last['mask']
        kept.append((digit & ~mask).flatten(1).sum(1) / digit.flatten(1).sum(1))
        removed.append(mask.flatten(1).float().mean(1))
    return 100 * torch.cat(kept).mean().item(), 100 * torch.cat(removed).mean().item()


def read_studied(path: Path) -> dict[str, dict[int, float]]:
    """What the whole study found: the last accuracy by arm and seed."""
    studied: dict[str, dict[int, float]] = {}
    with open(path, newline='') as file:
        for row in csv.DictReader(file):
            if row['status'] == 'done':
                studied.setdefault(row['arm'], {})[int(row['seed'])] = float(row['last'])
    return studied


def draw_table(runs: Mapping[str, StudyRun], shares: Mapping[str, tuple[float, float]]) -> Table:
    """What a cut removes and leaves, the accuracy of these runs, and what the whole study found."""
    studied = read_studied(STUDIED)
    table = Table(
        title=f'Cluttered digits, {IMAGES:,} images, {CUT} px cuts: one seed here, {len(studied[BLIND])} in the study',
        caption='The blind window is the control of keep-cut: the same windows, drawn without looking. A difference '
        'of a point between single runs means nothing. The study gives the mean and deviation over its '
        'seeds, and the difference to the blind window, paired by seed, with its 95% interval.',
        caption_justify='left',
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for column in ('cut', 'image\nremoved', 'digit\nleft', 'top-1', 's per\nepoch', 'study:\ntop-1', 'over blind'):
        table.add_column(column, justify='left' if column == 'cut' else 'right')
    for name, run in runs.items():
        kept, removed = shares[name]
        clock, accuracy = read_clock(run.folder), run.curve('eval_top1')[-1][1]
        found = spread_of(list(studied[name].values()))
        over = difference_of(studied[name], studied[BLIND]) if name != BLIND else None
        table.add_row(
            name,
            f'{removed:.1f} %',
            f'{kept:.1f} %',
            f'{accuracy:.1f} %',
            f'{max(clock.values()) / len(clock):.1f}',
            f'{found.mean:.1f} ± {found.deviation:.1f}',
            '-' if over is None else f'{over.mean:+.1f} ({over.low:.1f} to {over.high:.1f})',
        )
    return table


def draw_sheet(blind: BatchAugment, keep: BatchAugment, rows: int = 6, seed: int = 0):
    """Image, its saliency with the region drawn from it, and the results of a blind and of a selective cut."""
    x, target, _ = load_batch(range(rows))
    generator = torch.Generator().manual_seed(seed)
    blindly, _ = blind(x, target, generator)
    kept, _ = keep(x, target, generator)
    return contact_sheet(
        {
            'image': to_pixels(x, MEAN, STD),
            'cut blindly': to_pixels(blindly, MEAN, STD),
            'saliency': heat(keep.last['saliency']),
            'cut by keep-cut': to_pixels(kept, MEAN, STD),
        },
        outlines={'saliency': keep.last['mask']},
    )


if __name__ == '__main__':
    explain_errors(main)
