"""The flags of refinement, and what they refuse."""
import argparse
from collections.abc import Iterable


def add_refine(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of refinement."""
    add = parser.add_argument_group('refinement: finish on lightly augmented images').add_argument
    add('--refine-epochs', type=int, default=0, metavar='N',
        help='epochs after the scheduled ones, with crop and flip only: no policy, erasing, mixing, cutting, '
             'occlusion or jitter')
    add('--refine-lr', type=float, metavar='LR',
        help='learning rate they are held at; unset: the last scheduled one, for schedules that fall towards zero at '
             'least a hundredth of the peak')
    add('--refine-fade', type=int, default=0, metavar='K',
        help="epochs before them over which mixup's alpha and all other probabilities fall linearly to zero")
    add('--risk-samples', type=int, metavar='N',
        help='training images on which the loss is measured after each epoch, augmented and clean; unset: 2048 with '
             '--refine-epochs, else none')


def check_refine(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows (refused, sentence) for the flags of refinement."""
    for name in ('refine_epochs', 'refine_fade', 'risk_samples'):
        value = getattr(args, name)
        flag = f'--{name.replace("_", "-")} {value}'
        yield value is not None and value < 0, f'{flag} is too small: give at least 0, which is off.'
        yield bool(value) and args.naflex_loader, (
            f'{flag} needs images, --naflex-loader makes batches of patches: drop one of the two.')
        yield bool(value) and args.aug_splits > 1, (
            f'{flag} cannot keep the splits of --aug-splits {args.aug_splits} apart: drop --aug-splits.')
    yield args.risk_samples == 1, '--risk-samples 1 is too small to mix in pairs: give at least 2, or 0, which is off.'
    for name in ('refine_lr', 'refine_fade'):
        value = getattr(args, name)
        flag = f'--{name.replace("_", "-")} {value}'
        yield bool(value) and not args.refine_epochs, (
            f'{flag} has no effect without --refine-epochs: add it or drop {flag}.')
    yield args.refine_fade > args.epochs, (
        f'--refine-fade {args.refine_fade} is longer than the {args.epochs} epochs before the refinement: '
        'give a smaller one.')
    yield args.refine_lr is not None and args.refine_lr <= 0, (
        f'--refine-lr {args.refine_lr} learns nothing: give a rate above 0.')
    yield args.refine_epochs > 0 and args.sched == 'plateau' and args.refine_lr is None, (
        '--refine-epochs cannot know the last learning rate of --sched plateau beforehand: give --refine-lr.')
