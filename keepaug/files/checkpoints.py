"""The one door for files of weights: read without running code in them, and looked at before anything is made of them.

Whatever is wrong with a file is one sentence that names the flag, the file and the way out.
"""

import argparse
import glob
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import safe_open

from keepaug.files.arrays import check_arrays
from keepaug.files.plain_json import parse_json

LAST = 'last.pth.tar'  # as timm's saver calls it
# Where timm's scripts keep the running average of the weights, and the weights, in the order in which timm looks.
AVERAGED = ('state_dict_ema', 'model_ema')
PLAIN = ('state_dict', 'model')
# What a training run writes beside its weights: a file that has any of it and no weights is damaged.
OF_RUN = ('args', 'arch', 'epoch', 'optimizer', 'saver', 'version')
# The key under which our safetensors files hold what timm writes to config.json.
CONFIG_KEY = 'timm_config'
SAFETENSORS = '.safetensors'
ARRAYS = ('.npz', '.npy')
# Bytes of a tensor that may be larger than its file: one value that stands for many.
SMALL = 2**24
CHUNK = 2**20  # bytes read at a time
MOST_BITS = 300  # of a number in a sentence


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


def check_checkpoint(
    path: str, flag: str, averaged: bool = False, of_run: bool = False, arrays: bool = False
) -> dict[str, Any]:
    """What a file of weights holds, after a look at all that timm takes from it; says in a sentence what is wrong.

    Args:
        path: File to read.
        flag: The flag that named it, for the sentence.
        averaged: Whether the running average is taken where there is one.
        of_run: Whether it must be a checkpoint of a training run, and not a format that holds weights alone.
        arrays: Whether arrays of NumPy will do, which timm reads for some models.

    Returns:
        Its contents; of safetensors the weights, of NumPy's arrays, which timm reads itself, nothing.

    Raises:
        ValueError: The file is missing, damaged, no checkpoint, would execute code, or its weights cannot be used.
    """
    if of_run and path.endswith((SAFETENSORS, *ARRAYS)):
        raise ValueError(
            f'{flag} {path} is no checkpoint of a training run: give plain weights with --initial-checkpoint.'
        )
    if path.endswith(ARRAYS) and not arrays:
        raise ValueError(f'{flag} {path} holds arrays of NumPy; give a checkpoint of PyTorch or a safetensors file.')
    checkpoint = read_file(path, flag)
    if path.endswith(ARRAYS):
        return checkpoint
    find_weights(checkpoint, f'{flag} {path}', averaged)
    for key in ('task_state', 'task_state_ema'):
        state = checkpoint.get(key)
        if not (state is None or isinstance(state, Mapping) and all(isinstance(name, str) for name in state)):
            raise damaged(f'{flag} {path}', f'{in_words(state)} as {key}')
    return checkpoint


def check_sums(path: str) -> None:
    """Reads every part of a zip archive against its checksum, as torch does not.

    Raises:
        zipfile.BadZipFile: A part is damaged. An archive whose every sum is wrong was written without any
            (`torch.serialization.set_crc32_options`), and passes.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = [info.filename for info in archive.infolist() if not _is_whole(archive, info)]
        if 0 < len(damaged) < len(archive.infolist()):
            raise zipfile.BadZipFile(f'{damaged[0]} is damaged')


def _is_whole(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(info) as part:
            while part.read(CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def read_file(path: str, flag: str) -> dict[str, Any]:
    """Reads a file of named tensors and plain values, without running anything in it.

    Args:
        path: File to read.
        flag: The flag that named it, for the sentence.

    Returns:
        What it holds; nothing of NumPy's arrays, which are looked at alone.

    Raises:
        ValueError: The file is missing, truncated, not a checkpoint, or would execute code.
    """
    _check_readable(path, flag)
    try:
        if path.endswith(SAFETENSORS):
            with safe_open(path, framework='pt') as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        if path.endswith(ARRAYS):
            check_arrays(path)
            return {}
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            check_sums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{flag} {path} is refused: it is no checkpoint, or holds more than tensors and plain values; '
            'give one that a training run wrote.'
        ) from error
    except Exception as error:  # whatever a reader stumbles over in bytes that are no checkpoint
        kind = {SAFETENSORS: 'safetensors file', '.npz': 'NumPy archive of arrays'}
        kind = kind.get(os.path.splitext(path)[1], 'checkpoint')
        raise ValueError(
            f'{flag} {path} cannot be read: it is truncated, damaged or no {kind}'
            f'{_instead(path) or "; give a whole one"}.'
        ) from error
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise ValueError(
            f'{flag} {path} is no checkpoint: it holds {in_words(checkpoint)}, not named weights; '
            'give one that a training run wrote.'
        )
    most = max(os.path.getsize(path), SMALL)
    for tensor in _tensors(checkpoint):
        if tensor.numel() * tensor.element_size() > most:
            raise ValueError(
                f'{flag} {path} is refused: it holds a tensor of shape {tuple(tensor.shape)}, for which the file is '
                'too small; give one that a training run wrote.'
            )
    return checkpoint


def find_weights(checkpoint: Mapping[str, Any], source: str, averaged: bool = False) -> tuple[Mapping[str, Any], str]:
    """The weights that timm takes from a checkpoint, and the key they stand under; empty where they are all it holds.

    Args:
        checkpoint: What `read_file` read.
        source: Its flag and file, for the sentence.
        averaged: Whether the running average is taken where there is one.

    Raises:
        ValueError: There are none, or they are no tensors, not finite, or variances below 0.
    """
    keys = [key for key in AVERAGED if averaged and checkpoint.get(key) is not None]
    keys += [key for key in PLAIN if key in checkpoint]
    key = keys[0] if keys else ''
    if not key and any(name in checkpoint for name in OF_RUN):
        raise damaged(source, 'no state_dict')
    weights = checkpoint[key] if key else checkpoint
    if not isinstance(weights, Mapping) or not weights:
        raise damaged(source, f'{in_words(weights)} as {key}')
    # What stands under no known key may be of another project, whose layout timm may know; it holds tensors somewhere.
    if not key and next(_tensors(weights), None) is None:
        raise damaged(source, 'no named weights')
    for name, value in weights.items():
        if not isinstance(name, str) or key and not (is_weight(value) or name.endswith('_extra_state')):
            raise damaged(source, f'under {str(name)[:100]} of {key or "its weights"} what is no plain tensor')
        fault = _fault(name, value) if isinstance(value, torch.Tensor) and is_weight(value) else ''
        if fault:
            raise ValueError(
                f'{source} holds {fault} in {name}{f" of {key}" if key else ""}: its run diverged, or the file is '
                'damaged; give an earlier checkpoint.'
            )
    return weights, key


def is_weight(value: Any) -> bool:
    """Whether a value of a file is a tensor that loading would copy as it is."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_quantized
    )


def damaged(source: str, what: str) -> ValueError:
    """The error of a file that holds what no training run writes there.

    Args:
        source: Its flag and file.
        what: What it holds, as in 'a list as state_dict'.
    """
    return ValueError(f'{source} is refused: it holds {what}; give a checkpoint as a training run writes it.')


def recorded_args(checkpoint: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The arguments of the run that wrote a checkpoint, by name and unchecked; empty if it records none.

    Args:
        checkpoint: What `check_checkpoint` read.
        source: Its flag and file, for the sentence.

    Raises:
        ValueError: What it holds there are no arguments.
    """
    args = checkpoint.get('args')
    args = vars(args) if isinstance(args, argparse.Namespace) else {} if args is None else args
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise damaged(source, f'{in_words(args)} as args')
    return dict(args)


def recorded_classes(checkpoint: Mapping[str, Any], source: str) -> dict[str, int]:
    """The numbers of the classes by name, as the run that wrote a checkpoint had them; empty if it does not tell.

    Args:
        checkpoint: What `check_checkpoint` read.
        source: Its flag and file, for the sentence.

    Raises:
        ValueError: The record is damaged.
    """
    classes = recorded_args(checkpoint, source).get('class_to_idx')
    if classes is None or isinstance(classes, (dict, list, str)) and not classes:
        return {}
    if not is_class_list(classes):
        raise ValueError(
            f'{source} is damaged: what it records as class_to_idx is no number for each class; give --class-map.'
        )
    return classes


def is_class_list(value: Any) -> bool:
    """Whether something read from a file gives names of classes their numbers."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and type(index) is int and index >= 0 for name, index in value.items())
    )


def read_exported(path: str, flag: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a safetensors file of ours says beside its weights, as timm's config.json says it, and all it says as text.

    Raises:
        ValueError: It is no JSON object.
    """
    with safe_open(path, framework='pt') as file:
        metadata = file.metadata() or {}
    try:
        config = parse_json(metadata.get(CONFIG_KEY, '{}'))
        if not isinstance(config, dict):
            raise ValueError
    except ValueError as error:
        raise ValueError(f'{flag} {path} is damaged: its {CONFIG_KEY} is no JSON object; export it again.') from error
    return config, metadata


def _check_readable(path: str, flag: str) -> None:
    """Says why a file cannot be opened, which has nothing to do with what it holds."""
    if os.path.isdir(path):
        last = os.path.join(path, LAST)
        raise ValueError(
            f'{flag} {path} is a folder: give {last if os.path.isfile(last) else "a checkpoint file in it"}.'
        )
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise ValueError(f'{flag} {path} is no file: name a checkpoint file.')
    try:
        with open(path, 'rb') as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise ValueError(f'{flag} {path} does not exist; name a checkpoint file.') from error
    except OSError as error:
        raise ValueError(
            f'{flag} {path} cannot be opened ({error.strerror or error}): make it readable, or name another file.'
        ) from error
    if empty:
        raise ValueError(f'{flag} {path} is empty{_instead(path) or "; name another file"}.')


def _fault(name: str, tensor: torch.Tensor) -> str:
    """What is wrong with the values of a weight, in words; empty where nothing is."""
    if tensor.is_floating_point() and tensor.element_size() == 1:
        tensor = tensor.float()  # some formats of a byte know no such questions
    if (tensor.is_floating_point() or tensor.is_complex()) and not tensor.isfinite().all():
        return 'values that are not finite'
    if name.endswith('running_var') and not tensor.is_complex() and (tensor < 0).any():
        return 'variances below 0'
    return ''


def in_words(value: Any) -> str:
    """A value of a file, in a sentence: itself where it is short, or else what it is."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return 'a number of more digits than fit here'
    if isinstance(value, (int, float)) or isinstance(value, str) and value:
        return repr(value)[:100]
    if value is None:
        return 'nothing'
    name = type(value).__name__
    if isinstance(value, (Mapping, list, tuple, str)) and not value:
        return f'an empty {name}'
    return f'{"an" if name[0] in "aeiouAEIOU" else "a"} {name}'


def _tensors(checkpoint: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """All tensors in dictionaries and lists, however deep, each container once."""
    left, seen = [checkpoint], set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, Mapping) else value


def _instead(path: str) -> str:
    """The newest checkpoint of an epoch beside one that cannot be read, for the end of a sentence."""
    newest = newest_epoch(os.path.dirname(path), without=path)
    return f'; {newest} beside it is whole' if newest else ''
