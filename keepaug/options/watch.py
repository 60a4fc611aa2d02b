"""The flag that lets a run be watched."""
import argparse


def add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group('watching a run').add_argument(
        '--log-tensorboard', action='store_true',
        help="write each epoch's numbers, and a sheet of what the augmentations did, to the run's folder for TensorBoard")
