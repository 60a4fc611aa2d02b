"""Last-epoch accuracy of KeepCutout against its two controls, several seeds at equal epochs.

    python benchmarks/cifar_accuracy.py --data-dir /data/cifar10 --seeds 5 --runs runs -- --device cuda --amp

Every arm is a run of train.py that differs in its cut alone; all share crop, flip, schedule and seed, so that
differences between arms are paired by seed. The published Cutout may overflow the border, which makes it cut less than
a window inside the image; therefore `window`, the same window as KeepCutout's drawn blindly, is the control for what
saliency adds. What stands behind `--` goes to every run. A run whose summary.csv is complete is not repeated.

Written are the accuracies and, for every pair of arms that is compared, the mean difference over the seeds with its 95%
interval (Student's t over the paired differences).
"""
import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

from scipy import stats

from keepaug import options
from keepaug.machine import describe_machine

ARMS = {
    'none': [],
    'cutout': ['--cutout', '16'],
    'window': ['--keep-cut', '--keep-size', '16', '--keep-tau', 'none'],
    'keepcutout-low': ['--keep-cut', '--keep-size', '16', '--keep-saliency', 'low'],
    'keepcutout-low-early': ['--keep-cut', '--keep-size', '16', '--keep-saliency', 'low-early'],
}
# Differences reported: the first arm minus the second.
PAIRS = [
    ('keepcutout-low', 'window'),
    ('keepcutout-low', 'cutout'),
    ('keepcutout-low-early', 'window'),
    ('keepcutout-low-early', 'keepcutout-low'),
    ('cutout', 'none'),
]
# Padded crop, flip, and nothing else that is random; the rate falls to zero within the epochs at hand.
COMMON = (
    '--model cifar_resnet18 --num-classes 10 -b 128 --epochs 200 --lr 0.05 --warmup-epochs 1 --warmup-lr 0.01 '
    '--momentum 0.9 --weight-decay 5e-4 --train-crop-mode pad4 --color-jitter 0 --smoothing 0 --channels-last').split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-dir', required=True, help='image folder with train and val')
    parser.add_argument('--runs', type=Path, default=Path('runs'), help='folder of the runs')
    parser.add_argument('--arms', nargs='+', choices=ARMS, default=list(ARMS))
    parser.add_argument('--seeds', type=int, default=3, help='runs per arm')
    parser.add_argument('--output', type=Path, help='JSON file of the results')
    parser.add_argument('flags', nargs=argparse.REMAINDER, help='flags of train.py for all runs, behind --')
    args = parser.parse_args()
    flags = [*COMMON, *(flag for flag in args.flags if flag != '--')]

    top1: dict[str, list[float]] = {arm: [] for arm in args.arms}
    for seed in range(args.seeds):  # all arms of a seed first, so that an interrupted study stays paired
        for arm in args.arms:
            top1[arm].append(train(args, arm, seed, flags))
            report = describe(top1, flags)
            print(json.dumps({arm: top1[arm], 'seed': seed}), flush=True)
            if args.output:
                args.output.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps(report, indent=2))


def train(args, arm: str, seed: int, flags: list[str]) -> float:
    """Accuracy in percent after the last epoch of one run."""
    summary = args.runs / f'{arm}-{seed}' / 'summary.csv'
    done = args.runs / f'{arm}-{seed}' / 'done'
    wanted = ' '.join([args.data_dir, *flags, *ARMS[arm]])
    if done.exists() and done.read_text() != wanted:
        sys.exit(f'{done.parent} holds a run with other flags ({done.read_text()}); give another --runs.')
    if not done.exists():
        subprocess.run(
            [sys.executable, 'train.py', '--data-dir', args.data_dir, *flags, *ARMS[arm], '--seed', str(seed),
             '--output', str(args.runs), '--experiment', f'{arm}-{seed}'],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done.write_text(wanted)
    with summary.open() as file:
        return float(list(csv.DictReader(file))[-1]['eval_top1'])


def describe(top1: dict[str, list[float]], flags: list[str]) -> dict:
    """Accuracies by arm and paired differences, with what they were measured on."""
    pairs = {}
    for first, second in PAIRS:
        differences = [a - b for a, b in zip(top1.get(first, ()), top1.get(second, ()))]
        if len(differences) > 1:
            error = statistics.stdev(differences) / math.sqrt(len(differences))
            mean, half = statistics.mean(differences), stats.t.ppf(0.975, len(differences) - 1) * error
            pairs[f'{first} - {second}'] = dict(
                mean=round(mean, 2), low=round(mean - half, 2), high=round(mean + half, 2), n=len(differences))
    device = options.create_parser().parse_args(flags).device
    return dict(flags=' '.join(flags), machine=describe_machine(device), top1=top1, differences=pairs)


if __name__ == '__main__':
    main()
