"""Flags of timm's training script that came after the release whose flags are in `train.py` here, and their checks."""

import argparse
from collections.abc import Iterator
from typing import Any

from timm.loss import LOSS_TYPES, MULTI_LABEL_LOSS_TYPES, create_classification_loss

from keepaug.console.errors import first_line
from keepaug.methods.method import spell
from keepaug.options import shared
from keepaug.training.loss import LOSS_SETTINGS, loss_kwargs, uses_bce

# Defaults of older flags that a newer choice replaces: (flag, its value) to names and defaults.
IMPLIED_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ('task', 'multilabel'): dict(eval_metric='map', smoothing=0.0),
    # The last fifth of the run, where 90 epochs, the default of `step`, need not even fit.
    ('sched', 'wsd'): dict(decay_epochs=0.2),
    ('sched', 'rsqrt'): dict(decay_epochs=0.2),
}

DECAYS = ('linear', '1-sqrt', 'cosine', 'power', 'exp')
# Readers of data sets that can hold several labels per image.
SEVERAL_LABELS = ('hfds', 'hfids', 'tfds', 'wds')


def add_newer(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of newer releases; on a parser of `stock_first` they yield to the prefixes of the older ones."""
    for add_group in (_run, _model, _schedule, add_task, _loss, _teacher):
        add_group(parser)


def implied_defaults(args: argparse.Namespace) -> dict[str, Any]:
    """Defaults that the values of other flags ask for."""
    implied: dict[str, Any] = {}
    for (flag, value), defaults in IMPLIED_DEFAULTS.items():
        if vars(args).get(flag) == value:
            implied.update(defaults)
    return implied


def name_loss(args: argparse.Namespace) -> None:
    """Fills `args.loss` from the older switches `--jsd-loss` and `--bce-loss`."""
    args.loss = args.loss or ('jsd' if args.jsd_loss else 'bce' if args.bce_loss else None)


def _run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('stopping and milestones').add_argument
    add('--stop-epoch', type=int, metavar='N', help='end after N completed epochs, with the schedule of all of them')
    add(
        '--save-epochs',
        type=int,
        nargs='+',
        default=[],
        metavar='N',
        help='completed epochs after which milestone-N.pth.tar is kept for good',
    )


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group('pretrained configuration').add_argument(
        '--pretrained-cfg-overlay',
        nargs='*',
        default={},
        action=shared.Keywords,
        metavar='KEY=VALUE',
        help='entries of the pretrained configuration of the model to replace',
    )


def _schedule(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('schedules with a stable phase').add_argument
    add('--lr-decay-fn', choices=DECAYS, help='shape of the last phase of wsd and rsqrt; unset: 1-sqrt and linear')
    add('--lr-stable-timescale', type=float, metavar='N', help='time constant of rsqrt, in epochs; unset: the warmup')


def add_task(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `--task`, which training and validation have in common."""
    add = parser.add_argument_group('task').add_argument
    add(
        '--task',
        default='classification',
        choices=('classification', 'multilabel'),
        help='one label per image, or any number of them, each a binary decision',
    )
    add(
        '--target-format',
        choices=('indices', 'multihot'),
        help='labels of an image as a list of class indices or as a vector of zeros and ones; unset: indices',
    )
    add('--multilabel-threshold', type=float, default=0.5, metavar='P', help='probability that counts as yes in F1')


def _loss(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('further losses').add_argument
    add('--loss', choices=LOSS_TYPES, help='unset: ce, or bce for --task multilabel')
    add('--class-stats', metavar='FILE', help='JSON of pos_counts per class and num_samples')
    for kind, meaning in (('class', 'a class'), ('pos', 'the positive term of a class')):
        add(
            f'--loss-{kind}-weight',
            metavar='X',
            help=f'weight of {meaning} in bce and multi-label asl: a number, '
            f'numbers a,b,c, a file of them, or a method that computes them from --class-stats',
        )
    add('--loss-weight-power', type=float, default=1.0, metavar='X', help='exponent of computed weights')
    add('--loss-weight-beta', type=float, default=0.999, metavar='X', help='beta of effective_num weights')
    add('--loss-weight-max', type=float, metavar='X', help='largest computed weight')
    for name, meaning in {
        'asl_gamma_pos': 'focus on hard positive targets',
        'asl_gamma_neg': 'focus on hard negative targets',
        'asl_clip': 'probability below which negatives do not count',
        'poly_epsilon': 'weight of the first polynomial term',
        'poly_gamma': 'focus on hard targets',
        'poly_alpha': 'balance of positive and negative targets',
        'twoway_tp': 'temperature of positive logits',
        'twoway_tn': 'temperature of negative logits',
        'db_neg_scale': 'tolerance of negatives',
        'db_init_bias': 'shift by the class prior',
        'db_focal_gamma': 'focus on hard targets',
    }.items():
        loss = name.split('_')[0]
        add(spell(name), type=float, metavar='X', help=f'{meaning} (--loss {loss}); unset: as in timm')
    add('--asl-reduction', choices=('batchmean', 'sum', 'mean'), help='reduction of multi-label asl; unset: batchmean')


def _teacher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group('teacher').add_argument(
        '--kd-pretrained-path', metavar='FILE', help='weights of --kd-model-name, instead of the published ones'
    )


def check_newer(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals, as rows of (refused, sentence)."""
    for rows in (_run_rows, _schedule_rows, _task_rows, _loss_rows, _teacher_rows):
        yield from rows(args)


def check_task(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals of the validation script, as rows of (refused, sentence)."""
    yield from _task_rows(args)
    for name in ('metrics_avg', 'valid_labels', 'real_labels', 'analysis_dir'):
        value = vars(args)[name]
        yield (
            args.task == 'multilabel' and bool(value),
            (f'{spell(name, value)} looks at one label per image: drop it or --task multilabel.'),
        )


def _run_rows(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    yield (
        args.resume == 'auto' and not args.experiment,
        ('--resume auto goes on in the folder of the run, which has no fixed name: add --experiment NAME.'),
    )


def _schedule_rows(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    yield (
        args.lr_decay_fn is not None and args.sched not in ('wsd', 'rsqrt'),
        (f'--lr-decay-fn {args.lr_decay_fn} has no effect with --sched {args.sched}: choose wsd or rsqrt, or drop it.'),
    )
    yield (
        args.lr_stable_timescale is not None and args.sched != 'rsqrt',
        (
            f'--lr-stable-timescale {args.lr_stable_timescale} has no effect with --sched {args.sched}: choose rsqrt '
            'or drop it.'
        ),
    )
    yield (
        args.sched == 'rsqrt' and not args.warmup_epochs and args.lr_stable_timescale is None,
        ('--sched rsqrt takes its time constant from the warmup, and there is none: add --lr-stable-timescale 5.'),
    )
    yield (
        args.sched == 'plateau' and args.sched_on_updates,
        ('--sched plateau waits for validation and cannot change with --sched-on-updates: drop one of the two.'),
    )
    phase = args.epochs if args.warmup_prefix else args.epochs - args.warmup_epochs
    decay = args.decay_epochs * phase if 0 < args.decay_epochs < 1 else args.decay_epochs
    yield (
        args.sched in ('wsd', 'rsqrt') and not 0 < decay <= phase,
        (
            f'--sched {args.sched} has {phase} epochs after the warmup, --decay-epochs {args.decay_epochs} of them do '
            'not fit: give fewer, or a share such as 0.2.'
        ),
    )


def _task_rows(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    several = args.task == 'multilabel'
    yield (
        several and args.dataset.partition('/')[0].lower() not in SEVERAL_LABELS,
        (
            f'--task multilabel needs several labels per image, which {args.dataset or "an image folder"} does not '
            f'hold: give --dataset with {", ".join(SEVERAL_LABELS[:-1])} or {SEVERAL_LABELS[-1]}.'
        ),
    )
    yield (
        args.target_format is not None and not several,
        (f'--target-format {args.target_format} has no effect with one label per image: add --task multilabel.'),
    )
    yield (
        ',' in (args.target_key or '') and not several,
        (f'--target-key {args.target_key} makes a label of every field: add --task multilabel.'),
    )
    yield (
        ',' in (args.target_key or '') and args.target_format == 'multihot',
        (f'--target-key {args.target_key} is a vector already: drop --target-format multihot.'),
    )


def _loss_rows(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    several, loss = args.task == 'multilabel', args.loss
    for switch in ('bce', 'jsd'):
        yield (
            vars(args)[f'{switch}_loss'] and loss not in (None, 'bce', 'jsd'),
            (f'--{switch}-loss and --loss {loss} name two losses: drop one of the two.'),
        )
    yield (
        several and loss not in (None, *MULTI_LABEL_LOSS_TYPES),
        (
            f'--loss {loss} takes one label per image, --task multilabel gives several: choose '
            f'{", ".join(MULTI_LABEL_LOSS_TYPES[:-1])} or {MULTI_LABEL_LOSS_TYPES[-1]}.'
        ),
    )
    yield (
        not several and loss in ('twoway', 'zlpr', 'db'),
        (f'--loss {loss} takes several labels per image: add --task multilabel, or choose ce, bce, asl, poly or jsd.'),
    )
    weighted = uses_bce(args) or loss == 'asl' and several
    for name in ('loss_class_weight', 'loss_pos_weight'):
        value = vars(args)[name]
        yield (
            value is not None and not weighted,
            f'{spell(name, value)} is for --loss bce, and asl with --task multilabel: choose one of them or drop it.',
        )
    yield (
        args.loss_pos_weight is not None and args.bce_pos_weight is not None,
        (
            f'--loss-pos-weight {args.loss_pos_weight} and --bce-pos-weight {args.bce_pos_weight} say the same thing: '
            'drop one of the two.'
        ),
    )
    yield (
        loss == 'db' and not args.class_stats,
        ('--loss db weighs classes by their counts: give their file with --class-stats.'),
    )
    for owner, names in LOSS_SETTINGS.items():
        for name in names:
            value = vars(args)[name]
            yield (
                value is not None and loss != owner,
                (f'{spell(name, value)} has no effect without --loss {owner}: drop it.'),
            )
    mixed = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    whole = ('twoway', 'zlpr') if several else ('asl',)
    yield loss in whole and mixed, (f'--loss {loss} takes no mixed labels: drop --mixup and --cutmix, or choose bce.')
    yield (
        loss in ('twoway', 'zlpr') and args.smoothing > 0,
        (f'--loss {loss} takes no smoothed labels: drop --smoothing {args.smoothing}.'),
    )
    if loss == 'jsd' and args.aug_splits < 2:
        return  # said by the check of splits
    try:
        create_classification_loss(multi_label=several, **loss_kwargs(args))
    except ValueError as error:
        said = str(error)
        yield True, said if said.startswith('--') else f'The flags of --loss {loss} do not fit: {first_line(error)}.'


def _teacher_rows(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    yield (
        args.task == 'multilabel' and bool(args.kd_model_name),
        (f'--kd-model-name {args.kd_model_name} teaches one label per image: drop it or --task multilabel.'),
    )
    yield (
        args.kd_pretrained_path is not None and not args.kd_model_name,
        (f'--kd-pretrained-path {args.kd_pretrained_path} has no effect without --kd-model-name: add it or drop this.'),
    )
    yield (
        bool(args.kd_model_name) and args.kd_loss_type != 'kl',
        (f'--kd-loss-type {args.kd_loss_type} is unknown: choose kl.'),
    )
    yield (
        bool(args.kd_model_name) and args.naflex_loader,
        (
            f'--kd-model-name {args.kd_model_name} needs images, --naflex-loader makes batches of patches: '
            'drop one of the two.'
        ),
    )
