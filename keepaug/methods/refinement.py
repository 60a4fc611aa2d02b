"""Refinement (He et al., Data Augmentation Revisited, 2019): `--refine-epochs`."""

import argparse
from collections.abc import Iterator

from keepaug.data.transform import TransformChanges, shared_strength
from keepaug.methods.method import Flag, Method, Need, Refusal
from keepaug.ranges import Range

EPOCHS = Range(least=0, whole=True, unit='epoch')
RISK_SAMPLES = 2048  # a mean loss over so many is certain to about a fiftieth of its spread


class RefinementMethod(Method):
    """Finishes on images that are cropped and flipped only; see `keepaug.training.refinement`."""

    name = 'refinement'
    title = 'refinement: finish on lightly augmented images'
    switch = Flag(
        '--refine-epochs',
        type=int,
        default=0,
        metavar='N',
        range=EPOCHS,
        help='train N more epochs after the scheduled ones, with crop and flip only: no policy, erasing, mixing, '
        'cutting, occlusion or jitter',
    )
    settings = (
        Flag(
            '--refine-lr',
            type=float,
            metavar='LR',
            range=Range(above=0),
            help='learning rate of these epochs; unset: the last scheduled one, but at least a hundredth of the peak '
            'for schedules that fall towards zero',
        ),
        Flag(
            '--refine-fade',
            type=int,
            default=0,
            metavar='K',
            range=EPOCHS,
            help="over the K epochs before them, let mixup's alpha and all other probabilities fall linearly to zero",
        ),
        Flag(
            '--refine-plain',
            help='leave out crop and flip in these epochs too: images are resized and cropped as in validation',
        ),
    )
    needs = Method.needs | Need.OWN_SCRIPT
    on_batches = False
    example = '--refine-epochs 1'

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.refine_epochs > 0

    def moves_mixing(self, args: argparse.Namespace) -> bool:
        return args.refine_fade > 0  # parameters that fade do not reach stock's collate function

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        yield (
            args.refine_fade > args.epochs,
            (f'--refine-fade must be at most {args.epochs}, the epochs before the refinement, got {args.refine_fade}.'),
        )
        yield (
            args.sched == 'plateau' and args.refine_lr is None,
            ('--refine-epochs cannot know the last learning rate of --sched plateau beforehand: give --refine-lr.'),
        )
        yield (
            args.refine_plain and bool(args.train_img_sizes),
            (
                '--refine-plain resizes images to one size, but --train-img-sizes trains on several: drop one of the '
                'two.'
            ),
        )

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        changes.strength = shared_strength()
        changes.plain = args.refine_plain


class RisksMethod(Method):
    """Measures the loss on training images after each epoch, augmented and clean; see `keepaug.measuring.risks`."""

    name = 'risks'
    title = RefinementMethod.title
    switch = Flag(
        '--risk-samples',
        type=int,
        metavar='N',
        range=Range(least=0, whole=True, unit='image'),
        resumable=True,
        help='measure the loss on N training images after each epoch, augmented and clean; unset: '
        f'{RISK_SAMPLES} with --refine-epochs, else none',
    )
    needs = Method.needs | Need.OWN_SCRIPT
    on_batches = False
    example = '--risk-samples 16'

    def is_on(self, args: argparse.Namespace) -> bool:
        return bool(args.risk_samples)

    @staticmethod
    def samples(args: argparse.Namespace) -> int:
        """Training images whose loss is measured; 0 for none."""
        if args.risk_samples is None:
            return RISK_SAMPLES if args.refine_epochs else 0
        return args.risk_samples

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        yield (
            args.risk_samples == 1,
            ('--risk-samples must be at least 2, to mix in pairs, or 0 to measure nothing, got 1.'),
        )
        yield (
            args.task == 'multilabel',
            (
                f'--risk-samples {args.risk_samples} measures the cross entropy of one label per image: drop it or '
                '--task multilabel.'
            ),
        )
