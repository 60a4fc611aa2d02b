"""The flag of exact resumption, and what it refuses."""
import argparse
from collections.abc import Iterable


def add_exact_resume(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of exact resumption."""
    parser.add_argument_group('exact resumption').add_argument(
        '--exact-resume', action='store_true',
        help='seed the streams of every epoch, those of loader workers too, by seed, epoch and process, and keep the '
             "schedule's state in checkpoints: a run killed and resumed from its last.pth.tar ends with the weights of "
             'one that was not')


def check_exact_resume(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows (refused, sentence) for the flag of exact resumption."""
    if not args.exact_resume:
        return
    yield args.start_epoch is not None, (
        f'--start-epoch {args.start_epoch} counts other epochs than those --exact-resume goes on with: '
        'drop one of the two.')
    yield args.no_resume_opt, (
        "--no-resume-opt leaves behind the optimizer's state, which --exact-resume needs: drop one of the two.")
    yield args.opt.lower().endswith('adahessian'), (
        f'--opt {args.opt} keeps random numbers of its own, which no checkpoint holds: choose another, or drop '
        '--exact-resume.')
