"""Reading checkpoints: without running code in them, and with a sentence where that fails."""

import argparse
import glob
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch

LAST = 'last.pth.tar'  # as timm's saver calls it
# Where timm's scripts keep the running average of the weights, in the order in which timm looks for it.
AVERAGED = ('state_dict_ema', 'model_ema')
# The key under which our safetensors files hold what timm writes to config.json.
CONFIG_KEY = 'timm_config'
# Bytes of a tensor that may be larger than its file: one value that stands for many.
SMALL = 2**24


def newest_epoch(folder: str, without: str = '') -> str:
    """The whole checkpoint of the latest epoch that a folder holds beside `last.pth.tar`; empty if there is none.

    Args:
        folder: Folder of a run.
        without: A file that is known not to be whole, by any of its names.
    """
    epochs = {
        int(match[1]): path
        for path in glob.glob(os.path.join(glob.escape(folder), 'checkpoint-*.pth.tar'))
        if (match := re.search(r'-(\d+)\.pth\.tar$', path))
        and zipfile.is_zipfile(path)  # by its end
        and not (without and os.path.samefile(path, without))
    }
    return epochs[max(epochs)] if epochs else ''


def check_checkpoint(path: str, flag: str) -> dict[str, Any]:
    """Says in a sentence why a file is no checkpoint, without running anything in it.

    Args:
        path: File to read.
        flag: The flag that named it, for the sentence.

    Returns:
        What it holds; nothing for formats that cannot hold code, which are left unread.

    Raises:
        ValueError: The file is missing, truncated, not a checkpoint, or would execute code.
    """
    if not os.path.isfile(path):
        raise ValueError(f'{flag} {path} does not exist; name a checkpoint file.')
    if path.endswith(('.safetensors', '.npz', '.npy')):
        return {}
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{flag} {path} is refused: it is no checkpoint, or holds more than tensors and plain values.'
        ) from error
    except Exception as error:  # whatever torch stumbles over in bytes that are no checkpoint
        raise ValueError(f'{flag} {path} cannot be read: it is truncated or no checkpoint{_instead(path)}.') from error
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise ValueError(f'{flag} {path} is no checkpoint: it holds a {type(checkpoint).__name__}, not named weights.')
    most = max(os.path.getsize(path), SMALL)
    for tensor in _tensors(checkpoint):
        if tensor.numel() * tensor.element_size() > most:
            raise ValueError(
                f'{flag} {path} is refused: it holds a tensor of shape {tuple(tensor.shape)}, for which the file is '
                'too small.'
            )
    return checkpoint


def _tensors(checkpoint: dict[str, Any]) -> Iterator[torch.Tensor]:
    """All tensors in dictionaries and lists, however deep, each container once."""
    left, seen = [checkpoint], set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, Mapping) else value


def recorded_classes(checkpoint: Mapping[str, Any], source: str) -> dict[str, int]:
    """The numbers of the classes by name, as the run that wrote a checkpoint had them; empty if it does not tell.

    Args:
        checkpoint: What `check_checkpoint` read.
        source: Its file, for the sentence.

    Raises:
        ValueError: The record is damaged.
    """
    args = checkpoint.get('args')
    classes = vars(args).get('class_to_idx') if isinstance(args, argparse.Namespace) else None
    if not classes:
        return {}
    if not is_class_list(classes):
        raise ValueError(f'{source} is damaged: what it records as class_to_idx is no number for each class.')
    return classes


def is_class_list(value: Any) -> bool:
    """Whether something read from a file gives names of classes their numbers."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and type(index) is int and index >= 0 for name, index in value.items())
    )


def _instead(path: str) -> str:
    """The newest checkpoint of an epoch beside one that cannot be read, for the end of a sentence."""
    newest = newest_epoch(os.path.dirname(path), without=path)
    return f'; {newest} beside it is whole' if newest else ''
