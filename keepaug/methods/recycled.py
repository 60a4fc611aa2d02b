"""Saliency out of the training's own backward passes: `--keep-saliency recycled`."""

import argparse
from collections.abc import Iterator
from typing import Any

from timm.task import TrainingTask
from torch.utils.data import Dataset, IterableDataset

from keepaug.augment import Compose
from keepaug.augment.recycled import MAP_SIZE, MAP_SIZES, RECYCLED
from keepaug.data.checks import STREAMS
from keepaug.data.places import PlacedCollate, PlacedSamples
from keepaug.data.seeding import plain_loader
from keepaug.data.transform import TransformChanges
from keepaug.methods.method import Flag, Method, Need, Refusal, typed
from keepaug.methods.registry import active_methods
from keepaug.training.recycling import RecyclingTask

WAY_OUT = 'choose another --keep-saliency, such as low, or drop the other flag'

MAP_SIZE_FLAG = Flag(
    '--keep-map-size',
    type=int,
    default=MAP_SIZE,
    metavar='N',
    range=MAP_SIZES,
    help='cells per side of the map that --keep-saliency recycled keeps of each training image',
)


class RecycledMethod(Method):
    """Keeps a small map of each training image, written by backward passes and read at the image's next visit."""

    name = 'recycled saliency'
    title = 'recycled saliency: keep-cut guided by past backward passes'
    settings = (MAP_SIZE_FLAG,)
    needs = Need.IMAGES | Need.WHOLE_BATCHES | Need.OWN_SCRIPT
    on_batches = False
    example = f'--keep-cut --keep-saliency {RECYCLED}'

    @property
    def way_on(self) -> str:
        return f'--keep-saliency {RECYCLED}'

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.keep_saliency == RECYCLED and args.keep_tau is not None

    def spelled(self, args: argparse.Namespace) -> str:
        return self.way_on

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        yield (
            args.keep_cut is None or args.keep_paste,
            (
                f'{self.way_on} works only with --keep-cut, since the policy of --keep-paste moves pixels: choose '
                'another --keep-saliency, such as low.'
            ),
        )
        yield args.dataset.lower().startswith(STREAMS), self._stream(args)
        for flag, on, why in (
            (f'--aa {args.aa}', bool(args.aa) and not args.no_aug, 'moves pixels'),
            (
                f'--reprob {args.reprob:g}',
                args.reprob > 0 and args.keep_cut != 'erase' and not args.no_aug,
                'removes pixels without telling where',
            ),
            (
                f'--mixup {typed(args, "mixup"):g}',
                typed(args, 'mixup') > 0,
                'blends two images, whose gradients cannot be told apart',
            ),
            (f'--opt {args.opt}', args.opt.lower().endswith('adahessian'), 'runs the backward pass twice'),
        ):
            yield on, f'{self.way_on} does not work with {flag}, which {why}: {WAY_OUT}.'
        for method in active_methods(args):
            yield (
                bool(method.only_in_training),
                (
                    f'{self.way_on} does not work with {method.spelled(args)}, which mixes inside the network: '
                    f'{WAY_OUT}.'
                ),
            )

    def _stream(self, args: argparse.Namespace) -> str:
        return f'--dataset {args.dataset} is a stream, but {self.way_on} knows images by their number: {WAY_OUT}.'

    def outside_training(self, args: argparse.Namespace) -> dict[str, Any]:
        return {'keep_saliency': 'full'}

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        changes.placed = True

    def wrap_dataset(self, dataset: Dataset, args: argparse.Namespace) -> Dataset:
        if isinstance(dataset, IterableDataset):
            raise ValueError(self._stream(args))
        return PlacedSamples(dataset)

    def augment_task(self, task: TrainingTask, augment: Compose, args: argparse.Namespace) -> RecyclingTask:
        return RecyclingTask(task, augment, args.augment_copies, dense=args.task == 'multilabel')

    def wrap_loader(self, loader, dataset: Dataset, args: argparse.Namespace):
        plain = plain_loader(loader)
        plain.collate_fn = PlacedCollate(plain.collate_fn)
        return loader
