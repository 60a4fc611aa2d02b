"""The flags of the early head."""
import argparse
from collections.abc import Iterator

DEFAULTS = {'early_exit_weight': 0.3, 'early_exit_stage': None}


def add_early_exit(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the early head."""
    add = parser.add_argument_group('early exit: a classifier after the first stage').add_argument
    add('--early-exit', action='store_true',
        help='train a linear classifier after the first stage beside the model; implied by --keep-saliency early')
    add('--early-exit-weight', type=float, default=DEFAULTS['early_exit_weight'], metavar='W',
        help='weight of its loss')
    add('--early-exit-stage', metavar='STAGE',
        help='stage it follows, by name or number in feature_info; unset: the first that reduces by 4')


def check_early_exit(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals, as rows of (refused, sentence)."""
    on = args.early_exit or 'early' in (args.keep_saliency or '')
    flag = '--early-exit' if args.early_exit else f'--keep-saliency {args.keep_saliency}'
    yield args.early_exit_weight < 0, (
        f'--early-exit-weight {args.early_exit_weight} is negative: give a weight such as 0.3.')
    # Without a kind of saliency, a model that cannot run on reduced images gets a head for its first layers.
    possible = on or (args.keep_cut is not None or args.keep_paste) and args.keep_saliency is None
    for name, default in DEFAULTS.items():
        value = getattr(args, name)
        yield not possible and value != default, (
            f'--{name.replace("_", "-")} {value} has no effect without an early head: add --early-exit or drop it.')
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
