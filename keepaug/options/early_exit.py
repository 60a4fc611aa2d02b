"""The flags of the early head."""
import argparse
from collections.abc import Iterator


def add_early_exit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('early exit: a classifier after the first stage').add_argument
    add('--early-exit', action='store_true',
        help='train a linear classifier after the first stage beside the model; implied by --keep-saliency early')
    add('--early-exit-weight', type=float, default=0.3, metavar='W', help='weight of its loss')
    add('--early-exit-stage', metavar='STAGE',
        help='stage it follows, by name or number in feature_info; unset: the first that reduces by 4')


def check_early_exit(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals, as rows of (refused, sentence)."""
    on = args.early_exit or 'early' in (args.keep_saliency or '')
    flag = '--early-exit' if args.early_exit else f'--keep-saliency {args.keep_saliency}'
    yield args.early_exit_weight < 0, (
        f'--early-exit-weight {args.early_exit_weight} is negative: give a weight such as 0.3.')
    yield on and args.torchscript, (
        f'{flag} needs the stages of the model, which --torchscript hides: drop one of the two.')
    yield on and bool(args.kd_model_name) and args.kd_distill_type == 'feature', (
        f'{flag} does not train beside --kd-distill-type feature, which trains a model of its own making: '
        'choose logit or token.')
    yield on and args.naflex_loader, (
        f'{flag} needs images, --naflex-loader makes batches of patches: drop one of the two.')


def check_early_exit_of(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals of the validation script."""
    yield args.early_exit and not args.checkpoint, (
        "--early-exit judges the early head of a training run: name the run's file with --checkpoint.")
