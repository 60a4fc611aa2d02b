"""Exact resumption: `--exact-resume`. What checkpoints hold for it is in `keepaug.record.exact_state`."""

import argparse
from collections.abc import Iterator

from torch.utils.data import Dataset

from keepaug.data.seeding import seed_loader, seed_samples
from keepaug.methods.method import Flag, Method, Need, Refusal


class ExactResumeMethod(Method):
    """Seeds every stream by numbers alone, so that a resumed run ends as one that was never stopped."""

    name = 'exact-resume'
    title = 'exact resumption'
    switch = Flag(
        '--exact-resume',
        help='seed all random numbers of an epoch, including those of loader workers, by seed, epoch and process, '
        "and keep the schedule's state in checkpoints: a run killed and resumed from its last.pth.tar ends with "
        'the same weights as one that was not',
    )
    needs = Need.OWN_SCRIPT
    on_batches = False
    example = '--exact-resume'

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        yield (
            args.start_epoch is not None,
            (
                f'--start-epoch {args.start_epoch} changes the epoch at which --exact-resume goes on: drop one of the '
                'two.'
            ),
        )
        yield (
            args.no_resume_opt,
            ("--no-resume-opt discards the optimizer's state, which --exact-resume needs: drop one of the two."),
        )
        yield (
            args.opt.lower().endswith('adahessian'),
            (
                f'--opt {args.opt} draws random numbers of its own, whose state no checkpoint holds: choose another, '
                'or drop --exact-resume.'
            ),
        )

    def wrap_dataset(self, dataset: Dataset, args: argparse.Namespace) -> Dataset:
        return seed_samples(args, dataset)

    def wrap_loader(self, loader, dataset: Dataset, args: argparse.Namespace):
        return seed_loader(loader, dataset, args.seed)
