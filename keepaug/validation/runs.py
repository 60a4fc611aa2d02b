"""Which models a validation judges, and what each is called beside the others."""

import glob
import os
from collections.abc import Collection, Sequence
from typing import Any

from timm.models import get_pretrained_cfg_value, is_model, list_models
from timm.utils import natural_key

from keepaug.files.checkpoints import check_checkpoint, recorded_args
from keepaug.models.described import (
    LOCAL,
    describe,
    described_channels,
    described_name,
    described_size,
    is_plain_name,
    model_arguments,
    same_architecture,
)
from keepaug.models.loading import are_cached, is_hub_reachable
from keepaug.models.names import FOLDER, model_source

# `--model all` leaves out pretrained models whose classes are not ImageNet's thousand.
OTHER_CLASSES = ['*_in21k', '*_in22k', '*in12k', '*_dino', '*fcmae', '*seer']

# What counts as a checkpoint in a folder; safetensors only where there is none of these.
CHECKPOINTS = ('*.pth.tar', '*.pth')


def open_exported_folder(args) -> None:
    """Takes a folder that `keepaug.export timm` wrote as the model it is, where it is given as checkpoint.

    Raises:
        ValueError: Averaged weights are asked of it.
    """
    if _is_exported(args.checkpoint):
        if args.use_ema:
            raise ValueError(f'--use-ema has no effect on --checkpoint {args.checkpoint}, which was exported: drop it.')
        args.model, args.checkpoint = LOCAL + args.checkpoint, ''


def _is_exported(path: str) -> bool:
    return os.path.isfile(os.path.join(path, 'config.json')) and not _find(path, *CHECKPOINTS)


def choose_runs(args) -> list[dict[str, Any]]:
    """What to validate: changes of `model` and `checkpoint` to the options, one entry per run, each with a `label`.

    A folder as checkpoint stands for every checkpoint in it; `all`, a wildcard or a file of names as model for several
    pretrained models; those of `--compare` follow, but for files that are judged already. A single entry without a
    checkpoint is one plain run. A checkpoint that describes its own model is judged as that. With `--compare`,
    `named_by` is the flag that named the entry itself, or empty for one of many that a folder or a pattern stands for.

    Raises:
        ValueError: The folder holds no checkpoint, or one to compare with is none.
    """
    runs = _chosen_runs(args)
    if args.compare:
        named_by = '' if 'checkpoint' in runs[0] else '--checkpoint'
        runs = [dict(model=args.model, checkpoint=args.checkpoint, named_by=named_by) | run for run in runs]
        judged = {os.path.realpath(run['checkpoint'] or _exported_folder(run['model']) or os.devnull) for run in runs}
        for path in args.compare:
            if os.path.realpath(path) not in judged:
                runs.append(_compared_run(args, path))
                judged.add(os.path.realpath(path))
    labels = label_runs(
        [run.get('checkpoint', args.checkpoint) or run.get('model', args.model) for run in runs], shortest=2
    )
    return [dict(run, label=label) for run, label in zip(runs, labels)]


def label_runs(paths: Sequence[str], shortest: int = 1) -> list[str]:
    """A short name for each of several paths: the last parts in which they differ, as many as tell them apart.

    What stands twice in the list has the same name twice. A number is added where parts tell nothing apart, as those of
    `a-b/c` and `a/b-c`.

    Args:
        paths: Files or folders.
        shortest: Parts of a name at least, where not all lie in one folder: 2 to know a checkpoint's run.
    """
    parts = [os.path.normpath(path).split(os.sep) for path in paths]
    whole = [tuple(part) for part in parts]
    if len({tuple(part[:-1]) for part in parts}) == 1:
        shortest = 1
    while len({part[-1] for part in parts}) == 1 < len(set(whole)) and min(map(len, parts)) > 1:
        parts, shortest = [part[:-1] for part in parts], 1  # last.pth.tar, say, of each
    labels: list[str] = []
    for length in range(shortest, max(map(len, parts)) + 1):
        longer = ['-'.join(part[-length:]) for part in parts]
        if len(set(longer)) > len(set(labels)):
            labels = longer
    names: dict[tuple[str, ...], str] = {}
    for path, label in zip(whole, labels):
        name, number = label, 1
        while name in names.values() or (number > 1 and name in labels):
            number += 1
            name = f'{label}-{number}'
        names.setdefault(path, name)
    return [names[path] for path in whole]


def explain_failure(run: dict[str, Any], error: ValueError) -> str:
    """The sentence of an error of a run, which tells where `--compare` named what failed."""
    sentence = str(error)
    if run.get('named_by') != '--compare' or '--compare' in sentence:
        return sentence
    return f'--compare {run["checkpoint"] or _exported_folder(run["model"])}: {sentence}'


def _exported_folder(model: str) -> str:
    """The folder that a model is read from; empty where it is known by its name."""
    source, folder = model_source(model)
    return folder if source == FOLDER else ''


def _compared_run(args, path: str) -> dict[str, Any]:
    """The run of a checkpoint of `--compare`, as the architecture it says it is of."""
    if _is_exported(path):
        return dict(model=LOCAL + path, checkpoint='', named_by='--compare')
    changes = _follow(args, path, '--compare', typed=frozenset())
    return dict(model=args.model) | changes | dict(checkpoint=path, named_by='--compare')


def is_typed(args, name: str) -> bool:
    """Whether an option was given; all count as given where nobody took it down."""
    return args.typed is None or name in args.typed


def _follow(args, path: str, flag: str, typed: Collection[str] | None) -> dict[str, Any]:
    """What a checkpoint says of its model, as changes to options that were not typed.

    Evaluation size, crop and normalisation stay those of the validation, but for a model that is built for one size.
    """
    if typed is None:
        return {}
    source = f'{flag} {path}'
    told = describe(check_checkpoint(path, flag, averaged=args.use_ema, arrays=True), path, flag)
    changes, model = {}, args.model
    if 'model' not in typed:
        model = described_name(told, source, '--model') or model
        changes['model'] = model
    if not same_architecture(told.get('model', model), model):
        return changes
    size, channels, given = described_size(told), described_channels(told), {'img_size', 'input_size'} & {*typed}
    if channels is not None and 'in_chans' not in typed and 'input_size' not in typed:
        changes['in_chans'] = channels
    for name in ('num_classes', 'gp'):
        if name in told and name not in typed:
            changes[name] = told[name]
    if 'model_kwargs' not in typed:
        changes['model_kwargs'] = model_arguments(told)
    if size is not None and not given and is_plain_name(model) and get_pretrained_cfg_value(model, 'fixed_input_size'):
        changes['input_size'] = [channels or 3, *size]
    changes['described'] = dict(source=source, model_kwargs=changes.get('model_kwargs', {}))
    return changes


def check_data_given(args) -> None:
    """Says that no data are given, with the data set that a checkpoint's run was trained on, if it had a name.

    Raises:
        ValueError: None are.
    """
    if args.data or args.data_dir or args.dataset or not os.path.isfile(args.checkpoint):
        return
    held = check_checkpoint(args.checkpoint, '--checkpoint', averaged=args.use_ema, arrays=True)
    run = recorded_args(held, f'--checkpoint {args.checkpoint}')
    named, folder = (run.get(name) for name in ('dataset', 'data_dir'))
    ways = [
        f'--{flag} {value}' for flag, value in (('dataset', named), ('data-dir', folder or run.get('data'))) if value
    ]
    if ways and all(isinstance(value, str) for value in (named or '', folder or '')):
        raise ValueError(f'No data given: the run of --checkpoint {args.checkpoint} had {" ".join(ways)}, give those.')


def _chosen_runs(args) -> list[dict[str, Any]]:
    if os.path.isdir(args.checkpoint):
        files = _find(args.checkpoint, *CHECKPOINTS) or _find(args.checkpoint, '*.safetensors')
        if not files:
            raise ValueError(f'--checkpoint {args.checkpoint} holds no *.pth.tar or *.pth: name another folder.')
        return [
            dict(model=args.model, checkpoint=path) | _follow_one(args, path) for path in sorted(files, key=natural_key)
        ]
    if args.checkpoint and (changes := _follow(args, args.checkpoint, '--checkpoint', args.typed)):
        return [changes]
    if args.model == 'all':
        names = list_models(pretrained=True, exclude_filters=OTHER_CLASSES)
    elif is_model(args.model) or ':' in args.model:
        return [{}]
    else:
        names = list_models(args.model, pretrained=True)
        if not names and os.path.isfile(args.model):
            with open(args.model) as file:
                names = [line.strip() for line in file if line.strip()]
    if len(names) > 1 and not is_hub_reachable():
        here = [name for name in names if are_cached(name)]
        if not here:
            raise ValueError(
                f'--model {args.model} stands for {len(names)} pretrained models, of which no weights are in the '
                'cache, and the Hub cannot be reached: give files with --checkpoint, or try again with a network.'
            )
        names = here
    return [dict(model=name, checkpoint='') for name in names] or [{}]


def _follow_one(args, path: str) -> dict[str, Any]:
    """What one checkpoint of a folder says of its model; nothing of one that cannot be read: its own turn tells."""
    try:
        return _follow(args, path, '--checkpoint', args.typed)
    except ValueError:
        return {}


def _find(folder: str, *patterns: str) -> list[str]:
    return [path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(folder), pattern))]
