"""Cost of a batch with a flag that the loader obeys, relative to a batch of the same loader without it.

    python benchmarks/loader_cost.py keep-paste          # pairs; JPEGs of 500 x 375 px written for it, 224 px
    python benchmarks/loader_cost.py exact-resume        # streams seeded for every sample
    python benchmarks/loader_cost.py keep-paste --data-dir cifar10/train --img-size 32 -b 128

Both loaders are timm's, with the same policy, in the main process; they give a batch each in turn, and the processor
time of every batch with the flag is divided by that of the plain one before it, so that drift of the machine cancels.
Printed are the median ratio and the quartiles; `--output` adds them to a JSON file with processor, versions and n.
`worker` is what a loader worker does, from the file to the batch of bytes. `whole` adds what the prefetcher does on the
device, here the CPU, with rows that pairs make twice as many: conversion to float32 and normalisation.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from records import add_record
from timm.data import ImageDataset, create_loader

import keepaug
from keepaug.data.seeding import seed_loader, seed_samples
from keepaug.machine import describe_machine

# What each of them changes a part of.
FLAGS = {'keep-paste': ('worker', 'whole'), 'exact-resume': ('worker',)}
# A usual photograph of ImageNet.
WIDTH, HEIGHT = 500, 375


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('flag', choices=FLAGS)
    parser.add_argument('--data-dir', help='image folder; unset: images written for the purpose')
    parser.add_argument('--images', help='what to call them in the JSON file; unset: the folder')
    parser.add_argument('--img-size', type=int, default=224, help='pixels')
    parser.add_argument('-b', '--batch-size', type=int, default=32)
    parser.add_argument('--aa', default='rand-m9-mstd0.5', help='policy')
    parser.add_argument('--batches', type=int, default=30, help='pairs of batches that count')
    parser.add_argument('--warmup', type=int, default=2, help='pairs of batches before those')
    parser.add_argument('--output', type=Path, help='JSON file the row is added to')
    args = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        if not args.data_dir:
            write_photos(Path(folder), args.batch_size)
        rows = {part: measure(args, args.data_dir or folder, part) for part in FLAGS[args.flag]}
    machine = describe_machine()
    print(f'--{args.flag}, {args.img_size} px, batch {args.batch_size}, {args.aa}, {machine}')
    for name, row in rows.items():
        print(
            f'  {name:8s} {row["median"]:.3f}  (quartiles {row["low"]:.3f} to {row["high"]:.3f}, n = {row["n"]}; '
            f'plain batch {row["plain_seconds"]:.3f} s)'
        )
    if args.output:
        record = dict(
            flag=args.flag,
            img_size=args.img_size,
            batch_size=args.batch_size,
            aa=args.aa,
            workers=0,
            images=args.images or args.data_dir or f'JPEG, {WIDTH} x {HEIGHT} px',
            machine=machine,
            date=time.strftime('%Y-%m-%d'),
            rows=rows,
        )
        add_record(args.output, record)


def write_photos(folder: Path, count: int) -> None:
    """JPEGs with coarse shapes and fine grain, so that decoding them costs what decoding a photograph does."""
    rng = np.random.default_rng(0)
    (folder / 'class0').mkdir()
    for index in range(count):
        shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        grain = rng.normal(0, 12, (HEIGHT, WIDTH, 1))
        pixels = np.asarray(shapes.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) + grain
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / 'class0' / f'{index}.jpg', quality=90)


def measure(args, folder: str, part: str) -> dict[str, float]:
    """Median and quartiles of the ratio of a batch with the flag to a plain one, and the seconds of a plain one."""
    plain, changed = (batches(args, folder, part, flag) for flag in ('', args.flag))
    ratios, seconds = [], []
    for batch in range(args.warmup + args.batches):
        plain_time = timed(plain)
        ratio = timed(changed) / plain_time
        if batch >= args.warmup:
            ratios.append(ratio)
            seconds.append(plain_time)
    low, median, high = statistics.quantiles(ratios, n=4)
    return dict(
        median=round(median, 4),
        low=round(low, 4),
        high=round(high, 4),
        n=len(ratios),
        plain_seconds=round(statistics.median(seconds), 4),
    )


def batches(args, folder: str, part: str, flag: str) -> Iterator:
    """Batches of one long epoch: at its ends the prefetcher reads two batches for one, and none."""
    dataset = ImageDataset(folder)
    needed = args.batch_size * (args.warmup + args.batches + 2)
    dataset.reader.samples *= math.ceil(needed / len(dataset))
    settings = keepaug.prepare(argparse.Namespace(keep_paste=flag == 'keep-paste', aa=args.aa))
    seeding = argparse.Namespace(exact_resume=flag == 'exact-resume', seed=0, rank=0, naflex_loader=False)
    dataset = seed_samples(seeding, keepaug.wrap_dataset(dataset, settings))
    loader = create_loader(
        dataset,
        (3, args.img_size, args.img_size),
        args.batch_size,
        is_training=True,
        auto_augment=args.aa,
        interpolation='random',
        num_workers=0,
        device=torch.device('cpu'),
    )
    loader = seed_loader(loader, dataset, seeding.seed)
    return iter(loader.loader if part == 'worker' else loader)


def timed(loader: Iterator) -> float:
    """Seconds of processor time for the next batch."""
    start = time.process_time()
    next(loader)
    return time.process_time() - start


if __name__ == '__main__':
    main()
