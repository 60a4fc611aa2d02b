"""The main job on the embedded data set: train with blind cuts and with keep-cut, validate, show the cuts.

    python -m keepaug.demo --output demo

The runs are made by `train.py` and `validate.py` themselves, with the command lines that are printed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table

import keepaug
from keepaug.datasets import ClutteredDigits
from keepaug.files.drafts import whole_file
from keepaug.machine import describe_machine
from keepaug.pictures.contact_sheet import contact_sheet, heat, to_pixels

SCRIPTS = Path(__file__).parents[1]
# A ResNet-10 of half width, so that two runs on two cores stay within minutes.
MODEL, MODEL_KWARGS = 'resnet10t', dict(channels=(32, 64, 128, 256), stem_width=16)
# Half the image's edge and more, so that a blind cut often takes the digit: the regime the method is made for.
CUT = 20
EPOCHS = 7
MEAN = STD = (0.5, 0.5, 0.5)
COMMON = (
    f'--dataset keepaug/cluttered-digits --model {MODEL} --model-kwargs '
    + ' '.join(f'{name}={value}'.replace(' ', '') for name, value in MODEL_KWARGS.items())
    + ' --num-classes 10 --img-size 40 --mean 0.5 --std 0.5 --crop-pct 1.0 --device cpu --channels-last -j 1'
)
TRAIN = (
    f'{COMMON} --epochs {EPOCHS} --warmup-epochs 2 --sched-on-updates -b 64 --opt adamw --lr 3e-3 --weight-decay 0.05 '
    f'--smoothing 0 --no-aug --checkpoint-hist 1 --log-interval 20'
)
METHODS = {
    'Cutout': f'--cutout {CUT}',
    'blind window': f'--keep-cut --keep-size {CUT} --keep-tau none',
    'keep-cut': f'--keep-cut --keep-size {CUT}',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, default=Path('demo'), help='folder for runs, table and picture')
    parser.add_argument('--images', type=int, default=1000, help='images the share of digit pixels is measured on')
    args = parser.parse_args()
    start = time.time()

    print(f'{len(METHODS)} runs of {EPOCHS} epochs: about four minutes on two cores.')
    rows = {name: _train_and_validate(name, flags, args.output) for name, flags in METHODS.items()}
    model = timm.create_model(
        MODEL, num_classes=10, checkpoint_path=args.output / 'keep-cut' / 'last.pth.tar', **MODEL_KWARGS
    ).eval()
    cuts = {
        'Cutout': keepaug.create_augment('cutout', size=CUT),
        'blind window': keepaug.create_augment('keep-cut', size=CUT, tau=None),
        'keep-cut': keepaug.create_augment('keep-cut', model=model, num_classes=10, size=CUT),
    }
    for name, cut in cuts.items():
        rows[name] |= dict(zip(('kept', 'removed'), measure_cuts(cut, args.images)))
    table = _table(rows)
    console = Console(width=110)
    console.print(table)
    with whole_file(args.output / 'table.txt') as draft, open(draft, 'w') as file:
        Console(file=file, width=110).print(table)
        file.write(f'{describe_machine()}, {args.images} images\n')
    picture = draw_sheet(cuts['blind window'], cuts['keep-cut'])
    with whole_file(args.output / 'keep-cut.png') as draft:
        picture.save(draft)
    console.print(f'Picture: {args.output}/keep-cut.png   took {time.time() - start:.0f} s')


def _train_and_validate(name: str, flags: str, output: Path) -> dict[str, float]:
    """One run of the scripts: validation accuracy in percent and seconds per epoch."""
    run = output / name.replace(' ', '-')
    _run(f'train.py {TRAIN} {flags} --output {output} --experiment {run.name}')
    result = run / 'validation.json'
    _run(f'validate.py {COMMON} --checkpoint {run}/last.pth.tar --results-file {result} --results-format json')
    return dict(accuracy=json.loads(result.read_text())['top1'], seconds=_seconds_per_epoch(run))


def _run(command: str) -> None:
    """Runs one of the scripts; its log and results pass through.

    Raises:
        SystemExit: The script failed; its own message is on the screen.
    """
    print(f'\n$ python {command}', flush=True)
    script, *flags = command.split()
    done = subprocess.run([sys.executable, SCRIPTS / script, *flags], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)


def _seconds_per_epoch(run: Path) -> float:
    """Seconds from the start of training, when args.yaml is written, to the last checkpoint, per epoch."""
    start, end = ((run / name).stat().st_mtime for name in ('args.yaml', 'last.pth.tar'))
    return (end - start) / EPOCHS


def load_batch(indices: range) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images (B, 3, 40, 40) as the run normalises them, classes (B,), and digit masks bool (B, 1, 40, 40)."""
    data = ClutteredDigits('train')
    images = torch.stack([data.image(index) for index in indices]).float().div(255)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    targets = torch.tensor([data.target(index) for index in indices])
    return (images - mean) / std, targets, torch.stack([data.mask(index) for index in indices])[:, None]


def measure_cuts(cut, images: int, seed: int = 0) -> tuple[float, float]:
    """Share of the digit's pixels that a cut leaves, and of the image it removes, in percent, over training images."""
    kept, removed, generator = [], [], torch.Generator().manual_seed(seed)
    for first in range(0, images, 250):
        x, target, digit = load_batch(range(first, min(first + 250, images)))
        cut(x, target, generator)
        mask = cut.last['mask']
        kept.append((digit & ~mask).flatten(1).sum(1) / digit.flatten(1).sum(1))
        removed.append(mask.flatten(1).float().mean(1))
    return 100 * torch.cat(kept).mean().item(), 100 * torch.cat(removed).mean().item()


def _table(rows: dict[str, dict[str, float]]) -> Table:
    table = Table(
        title=f'Cluttered digits, {MODEL} of half width, {CUT} px cuts, {EPOCHS} epochs, one seed',
        caption='Cutout loses part of its square over the border and so removes less; the blind window is the control '
        'of keep-cut: the same windows, drawn without looking. Accuracies are of one seed each: a difference of '
        'a few percent says nothing.',
    )
    for column in ('cut', 'image removed', 'digit pixels left', 'accuracy', 'seconds per epoch'):
        table.add_column(column, justify='left' if column == 'cut' else 'right')
    for name, row in rows.items():
        table.add_row(name, *(f'{row[key]:.1f} %' for key in ('removed', 'kept', 'accuracy')), f'{row["seconds"]:.1f}')
    return table


def draw_sheet(blind, keep, rows: int = 6, seed: int = 0):
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
    main()
