"""Batch augmentation (Hoffer et al., 2019; Occlusions, section 4.6): `--augment-copies`."""
import argparse

from torch.utils.data import Dataset

from keepaug.data.copies import Copies, change_transform, collate_splits
from keepaug.data.seeding import plain_loader
from keepaug.methods.method import Flag, Method, Need
from keepaug.ranges import COUNT


class CopiesMethod(Method):
    """Puts several copies of each sample into one batch, each cropped and augmented on its own."""

    name = 'copies'
    title = 'batch augmentation: every sample several times in a batch'
    switch = Flag(
        '--augment-copies', type=int, default=1, metavar='M', range=COUNT,
        help='copies of each sample, cropped and augmented on their own; unlike --aug-repeats, in one batch')
    needs = Need.IMAGES | Need.WHOLE_BATCHES | Need.OWN_SCRIPT
    example = '--augment-copies 2'

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.augment_copies > 1

    def wrap_loader(self, loader, dataset: Dataset, args: argparse.Namespace):
        change_transform(loader.dataset, lambda transform: Copies(transform, args.augment_copies))
        if not args.prefetcher:  # timm's collate function for it repeats the labels too
            plain_loader(loader).collate_fn = collate_splits
        return loader

    def describe(self, args: argparse.Namespace) -> str:
        return f'{args.augment_copies} of each image in a batch, each augmented on its own'
