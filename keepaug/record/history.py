"""What a checkpoint holds of its run beside tensors: the epoch, which checkpoints were kept and how they rank.

Files are deleted and written by it, so it is looked at before it is used, whoever wrote it.
"""

import re
from collections.abc import Mapping
from typing import Any

MOST_EPOCHS = 10**9
KEPT = re.compile(r'checkpoint-\d+\.pth\.tar')  # as timm's saver calls them


def check_run(checkpoint: Mapping[str, Any], source: str, needs_epoch: bool = True) -> None:
    """Says in a sentence what a checkpoint tells of its run that no run writes.

    Args:
        checkpoint: What `check_checkpoint` read.
        source: Its flag and file, for the sentence.
        needs_epoch: Whether the epoch to start with must come from the checkpoint.

    Raises:
        ValueError: The epoch is none, or the history names other files than the saver's own, which lie in its folder.
    """
    strange = ''
    if not (_is_epoch(checkpoint.get('epoch')) and _is_epoch(checkpoint.get('version'))):
        strange = 'an epoch or version that is not a number'
    elif needs_epoch and checkpoint.get('epoch') is None:
        raise ValueError(
            f'{source} holds no epoch, so it is unknown where to continue: give --start-epoch, or load only its '
            'weights with --initial-checkpoint.'
        )
    elif checkpoint.get('saver') is not None:
        strange = find_strange(checkpoint['saver'])
    if strange:
        raise ValueError(
            f'{source} is refused: it holds {strange}, which no run writes there. --initial-checkpoint loads only its '
            'weights.'
        )


def find_strange(history: Any) -> str:
    """What the history of a saver holds that it must not, in words; empty if there is nothing."""
    if not isinstance(history, Mapping):
        return f'a {type(history).__name__} as its history'
    files, pending = history.get('checkpoint_files', ()), history.get('pending', (None, None))
    if not isinstance(files, (list, tuple)):
        return f'a {type(files).__name__} as its list of checkpoints'
    for entry in files:
        if not (_is_pair(entry) and isinstance(entry[0], str) and _is_metric(entry[1])):
            return 'an entry in the list of checkpoints that is not a file with its metric'
        if not KEPT.fullmatch(entry[0]):
            return f'{entry[0]!r} in the list of checkpoints'
    if not (_is_pair(pending) and _is_epoch(pending[0]) and _is_metric(pending[1])):
        return 'a pending entry that is not an epoch with its metric'
    if not (_is_epoch(history.get('best_epoch')) and _is_metric(history.get('best_metric'))):
        return 'a best entry that is not an epoch with its metric'
    if history.get('row') is not None and not _is_row(history['row']):
        return 'a row that is not one of summary.csv'
    return ''


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _is_epoch(value: Any) -> bool:
    return value is None or type(value) is int and 0 <= value < MOST_EPOCHS


def _is_metric(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _is_row(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and type(value.get('epoch')) is int
        and all(isinstance(name, str) and isinstance(cell, (int, float, str)) for name, cell in value.items())
    )
