"""The loss the flags select, with its settings and class weights."""

from typing import Any

import torch
from timm.loss import CLASS_WEIGHT_METHOD_KINDS, load_class_stats, resolve_class_weights

from keepaug.console.errors import first_line
from keepaug.data.mixing import mixing_is_on

# Arguments of `timm.loss.create_classification_loss` that one loss alone reads; each is a flag of the same name.
LOSS_SETTINGS = {
    'asl': ('asl_gamma_pos', 'asl_gamma_neg', 'asl_clip', 'asl_reduction'),
    'poly': ('poly_epsilon', 'poly_gamma', 'poly_alpha'),
    'twoway': ('twoway_tp', 'twoway_tn'),
    'db': ('db_neg_scale', 'db_init_bias', 'db_focal_gamma'),
}


def loss_kwargs(args) -> dict[str, Any]:
    """Arguments of `timm.loss.create_classification_loss` for the loss the flags select.

    Unlike the stock script of timm 1.0.29, `--bce-loss` is also honoured where smoothing is 0.

    Raises:
        ValueError: Class weights cannot be read, or are not one per class.
    """
    kwargs = dict(
        loss_type=args.loss,
        smoothing=args.smoothing,
        soft_targets=mixing_is_on(args),
        class_weight=class_weights(args, 'class_weight'),
        pos_weight=class_weights(args, 'pos_weight'),
        **{name: vars(args)[name] for name in LOSS_SETTINGS.get(args.loss, ()) if vars(args)[name] is not None},
    )
    if args.loss == 'jsd':
        kwargs.update(jsd_splits=args.aug_splits)
    if uses_bce(args):
        kwargs.update(bce_target_thresh=args.bce_target_thresh, bce_sum=args.bce_sum)
        if args.bce_pos_weight is not None:
            kwargs.update(pos_weight=args.bce_pos_weight)
    stats = read_class_stats(args.class_stats) if args.loss == 'db' else None
    if stats is not None:
        counts, num_samples = stats
        _check_length('--class-stats', args.class_stats, counts, args.num_classes)
        kwargs.update(class_counts=counts, num_samples=num_samples)
    return kwargs


def uses_bce(args) -> bool:
    """Whether the loss is binary cross entropy, by name or because there are several labels per image."""
    return args.loss == 'bce' or args.loss is None and args.task == 'multilabel'


def class_weights(args, kind: str) -> float | torch.Tensor | None:
    """What `--loss-class-weight` or `--loss-pos-weight` stands for.

    Args:
        args: Options.
        kind: 'class_weight' or 'pos_weight'.

    Returns:
        One weight, weights (K,), or None.

    Raises:
        ValueError: The flag names no weights, or not one per class.
    """
    value = vars(args)[f'loss_{kind}']
    flag = f'--loss-{kind.replace("_", "-")}'
    methods = [method for method, its_kind in CLASS_WEIGHT_METHOD_KINDS.items() if its_kind == kind]
    if value is None:
        return None
    if value in methods and not args.class_stats:
        raise ValueError(f'{flag} {value} is computed from counts: give their file with --class-stats.')
    try:
        weights = resolve_class_weights(
            value,
            kind=kind,
            class_stats=read_class_stats(args.class_stats),
            power=args.loss_weight_power,
            beta=args.loss_weight_beta,
            max_weight=args.loss_weight_max,
        )
    except (ValueError, OSError) as error:
        raise ValueError(
            f'{flag} {value} is refused ({first_line(error)}): give a number, numbers a,b,c, a file of them, or '
            f'{" or ".join(methods)}.'
        ) from error
    _check_length(flag, value, weights, args.num_classes)
    return weights


def read_class_stats(path: str | None) -> tuple[torch.Tensor, int] | None:
    """Counts (K,) of positive samples and the number of samples from the JSON file of `--class-stats`.

    Raises:
        ValueError: The file is missing or holds something else.
    """
    try:
        return load_class_stats(path)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f'--class-stats {path} is refused ({first_line(error)}): give a JSON file with pos_counts and num_samples.'
        ) from error


def _check_length(flag: str, value: str, weights: float | torch.Tensor | None, num_classes: int | None) -> None:
    if isinstance(weights, torch.Tensor) and num_classes is not None and len(weights) != num_classes:
        raise ValueError(f'{flag} {value} holds {len(weights)} values for {num_classes} classes: give one per class.')
