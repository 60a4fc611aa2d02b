"""Dropout, Spatial Dropout and DropBlock inside the network (Occlusions, section 4.5): `--feature-dropout`."""

import argparse

from timm.task import TrainingTask

from keepaug.augment.ramp import Ramp
from keepaug.methods.method import Flag, Method, Need
from keepaug.models.feature_dropout import KINDS
from keepaug.ranges import COUNT, PROBABILITY, Range
from keepaug.training.feature_dropout_task import FeatureDropoutTask


class FeatureDropoutMethod(Method):
    """Drops features behind the convolutions of the last two stages."""

    name = 'feature-dropout'
    title = 'dropout inside the network, after the convolutions of its last two stages'
    switch = Flag(
        '--feature-dropout',
        type=str,
        choices=KINDS,
        help='what to drop: dropout: single features; spatial: whole maps; dropblock: squares of maps, also on the '
        'shortcuts of the blocks, and a quarter as many before the last stage',
    )
    settings = (
        Flag(
            '--feature-dropout-prob',
            type=float,
            default=0.1,
            metavar='P',
            range=Range(above=0, below=1),
            help='probability that a feature is dropped',
        ),
        Flag(
            '--feature-dropout-block',
            type=int,
            default=7,
            metavar='N',
            range=COUNT,
            help='edge of the squares of dropblock, in places of a map',
        ),
        Flag(
            '--feature-dropout-ramp',
            type=float,
            default=0.0,
            metavar='SHARE',
            range=PROBABILITY,
            help='share of the epochs over which the probability rises linearly from 0',
        ),
    )
    needs = Need.OPEN_MODEL | Need.BARE_MODEL
    on_batches = False
    example = '--feature-dropout dropblock'

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        if args.feature_dropout == 'dropblock':
            return {}
        return {'feature_dropout_block': f'with --feature-dropout {args.feature_dropout}'}

    def wrap_task(self, task: TrainingTask, args: argparse.Namespace) -> TrainingTask:
        try:
            return FeatureDropoutTask(
                task,
                args.feature_dropout,
                args.feature_dropout_prob,
                args.feature_dropout_block,
                args.feature_dropout_ramp,
            )
        except ValueError as error:
            raise ValueError(f'{self.spelled(args)} is not possible: {error}') from error

    def describe(self, args: argparse.Namespace) -> str:
        block = args.feature_dropout_block
        squares = f', squares of {block} x {block} places' if args.feature_dropout == 'dropblock' else ''
        probability = f'{args.feature_dropout_prob:g}{Ramp(args.feature_dropout_ramp)}'
        return f'{args.feature_dropout}{squares}, probability {probability}, inside the network'
