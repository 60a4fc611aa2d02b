"""Batch augmentation (Hoffer et al., 2019; Occlusions, section 4.6): `--augment-copies`."""

import argparse

from keepaug.data.transform import TransformChanges
from keepaug.methods.method import Flag, Method, Need
from keepaug.ranges import Range


class CopiesMethod(Method):
    """Puts several copies of each sample into one batch, each cropped and augmented on its own."""

    name = 'copies'
    title = 'batch augmentation: every sample several times in a batch'
    switch = Flag(
        '--augment-copies',
        type=int,
        default=1,
        metavar='M',
        range=Range(least=1, most=2**10, whole=True),
        help='put M copies of each sample into one batch, each cropped and augmented separately; --aug-repeats puts '
        'them into different processes',
    )
    needs = Need.IMAGES | Need.WHOLE_BATCHES | Need.OWN_SCRIPT
    example = '--augment-copies 2'

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.augment_copies > 1

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        changes.copies = args.augment_copies

    def describe(self, args: argparse.Namespace) -> str:
        return f'{args.augment_copies} copies of each image in a batch, each augmented separately'
