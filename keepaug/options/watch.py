"""The flags that let a run be watched, and what they refuse."""
import argparse
from collections.abc import Iterable

# Costs as much as the training steps of a third as many images, 0.03 % of an epoch of ImageNet and 0.7 % of one of
# CIFAR, and leaves an accuracy a standard error of 1.6 points at most.
SAMPLES = 1024


def add_watch(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('watching a run').add_argument
    add('--log-tensorboard', action='store_true',
        help="write each epoch's numbers (summary row, accuracy on clean training images, share of saliency kept, "
             "images per second), and a sheet of what the augmentations did, to the run's folder for TensorBoard; with "
             '--log-wandb, which alone logs the summary row, to Weights & Biases too')
    add('--watch-samples', type=int, default=SAMPLES, metavar='N',
        help='training images, the same in every epoch, whose accuracy is measured as validation reads them; 0: none')


def check_watch(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows (refused, sentence) for the flags of watching."""
    flag = f'--watch-samples {args.watch_samples}'
    yield args.watch_samples < 0, f'{flag} is too small: give at least 0, which is off.'
    yield args.watch_samples != SAMPLES and not args.log_tensorboard, (
        f'{flag} has no effect without --log-tensorboard: add it or drop {flag}.')
