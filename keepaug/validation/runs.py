"""Which models a validation judges, and what each is called beside the others."""

import argparse
import glob
import os
from collections.abc import Sequence
from typing import Any

from timm.models import is_model, list_models
from timm.utils import natural_key

from keepaug.files.checkpoints import check_checkpoint

# `--model all` leaves out pretrained models whose classes are not ImageNet's thousand.
OTHER_CLASSES = ['*_in21k', '*_in22k', '*in12k', '*_dino', '*fcmae', '*seer']

# What timm calls a model that it reads from a folder.
LOCAL = 'local-dir:'

# What counts as a checkpoint in a folder; safetensors only where there is none of these.
CHECKPOINTS = ('*.pth.tar', '*.pth')


def open_exported_folder(args) -> None:
    """Takes a folder that `keepaug.export timm` wrote as the model it is, where it is given as checkpoint.

    Raises:
        ValueError: Averaged weights are asked of it.
    """
    if _is_exported(args.checkpoint):
        if args.use_ema:
            raise ValueError(f'--use-ema has no choice in --checkpoint {args.checkpoint}, which was exported: drop it.')
        args.model, args.checkpoint = LOCAL + args.checkpoint, ''


def _is_exported(path: str) -> bool:
    return os.path.isfile(os.path.join(path, 'config.json')) and not _find(path, *CHECKPOINTS)


def choose_runs(args) -> list[dict[str, Any]]:
    """What to validate: changes of `model` and `checkpoint` to the options, one entry per run, each with a `label`.

    A folder as checkpoint stands for every checkpoint in it; `all`, a wildcard or a file of names as model for several
    pretrained models; those of `--compare` follow, but for files that are judged already. A single entry without
    changes is one plain run. With `--compare`, `named_by` is the flag that named the entry itself, or empty for one of
    many that a folder or a pattern stands for.

    Raises:
        ValueError: The folder holds no checkpoint, or one to compare with is none.
    """
    runs = _chosen_runs(args)
    if args.compare:
        named_by = '' if 'model' in runs[0] else '--checkpoint'
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

    What stands twice in the list has the same name twice.

    Args:
        paths: Files or folders.
        shortest: Parts of a name at least, where not all lie in one folder: 2 to know a checkpoint's run.
    """
    parts = [os.path.normpath(path).split(os.sep) for path in paths]
    if len({tuple(part[:-1]) for part in parts}) == 1:
        shortest = 1
    while len({part[-1] for part in parts}) == 1 < len(set(paths)) and min(map(len, parts)) > 1:
        parts, shortest = [part[:-1] for part in parts], 1  # last.pth.tar, say, of each
    for length in range(shortest, max(map(len, parts)) + 1):
        labels = ['-'.join(part[-length:]) for part in parts]
        if len(set(labels)) == len(set(paths)):
            break
    return labels


def explain_failure(run: dict[str, Any], error: ValueError) -> str:
    """The sentence of an error of a run, which tells where `--compare` named what failed."""
    sentence = str(error)
    if run.get('named_by') != '--compare' or '--compare' in sentence:
        return sentence
    return f'--compare {run["checkpoint"] or _exported_folder(run["model"])}: {sentence}'


def _exported_folder(model: str) -> str:
    """The folder that a model is read from; empty where it is known by its name."""
    return model.removeprefix(LOCAL) if model.startswith(LOCAL) else ''


def _compared_run(args, path: str) -> dict[str, Any]:
    """The run of a checkpoint of `--compare`, as the architecture it says it is of."""
    if _is_exported(path):
        return dict(model=LOCAL + path, checkpoint='', named_by='--compare')
    held = check_checkpoint(path, '--compare')
    trained = vars(held['args']) if isinstance(held.get('args'), argparse.Namespace) else {}
    known = {name: trained[name] for name in ('model_kwargs', 'num_classes') if trained.get(name) is not None}
    arch = held.get('arch')
    model = arch if arch and isinstance(arch, str) else args.model
    return known | dict(model=model, checkpoint=path, named_by='--compare')


def _chosen_runs(args) -> list[dict[str, Any]]:
    if os.path.isdir(args.checkpoint):
        files = _find(args.checkpoint, *CHECKPOINTS) or _find(args.checkpoint, '*.safetensors')
        if not files:
            raise ValueError(f'--checkpoint {args.checkpoint} holds no *.pth.tar or *.pth; name another folder.')
        return [dict(model=args.model, checkpoint=path) for path in sorted(files, key=natural_key)]
    if args.model == 'all':
        names = list_models(pretrained=True, exclude_filters=OTHER_CLASSES)
    elif is_model(args.model) or ':' in args.model:
        return [{}]
    else:
        names = list_models(args.model, pretrained=True)
        if not names and os.path.isfile(args.model):
            with open(args.model) as file:
                names = [line.strip() for line in file if line.strip()]
    return [dict(model=name, checkpoint='') for name in names] or [{}]


def _find(folder: str, *patterns: str) -> list[str]:
    return [path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(folder), pattern))]
