"""What a checkpoint says of its own model and of the images of its run, looked at before anything is built by it."""

import glob
import os
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.models import parse_model_name
from torch import nn

from keepaug.files.checkpoints import SAFETENSORS, check_checkpoint, damaged, in_words, read_exported, recorded_args
from keepaug.files.plain_json import parse_json
from keepaug.models.names import FOLDER, model_source
from keepaug.models.recorded import MOST_PIXELS, check_recorded
from keepaug.ranges import Range

# What tells the model, and what tells its images, by the names of the training script's options.
OF_MODEL = ('model', 'num_classes', 'gp', 'in_chans', 'bn_eps', 'model_kwargs')
OF_IMAGES = ('img_size', 'input_size', 'mean', 'std', 'crop_pct', 'interpolation')
# What timm calls a model that it reads from a folder, and the weights that it looks for there, in its order.
LOCAL = f'{FOLDER}:'
WEIGHTS = (
    'model.safetensors',
    'pytorch_model.bin',
    'pytorch_model.pth',
    'model.pth',
    'open_clip_model.safetensors',
    'open_clip_pytorch_model.safetensors',
    'open_clip_pytorch_model.bin',
    'open_clip_pytorch_model.pth',
    *('*.safetensors', '*.pth', '*.pth.tar', '*.bin'),
)
MOST_BYTES = 2**24  # of a config.json; names and descriptions of many classes may stand in it
MOST_CLASSES = 10**7
MOST_CHANNELS = 4096
MOST = 1e9  # of a number that is no count
CHANNELS = Range(least=1, most=MOST_CHANNELS, whole=True)
EDGE = Range(least=1, most=MOST_PIXELS, whole=True)
MOST_LETTERS = 4096  # of a name, which may be the path of a folder


def describe(checkpoint: Mapping[str, Any], path: str, flag: str) -> dict[str, Any]:
    """What a file says of its model and the images of its run; nothing of what it leaves open.

    Args:
        checkpoint: What `check_checkpoint` read.
        path: Its file; one of safetensors that we exported describes itself, too.
        flag: The flag that named it, for the sentence.

    Returns:
        Of `OF_MODEL` and `OF_IMAGES` what it tells, and the `class_to_idx` it holds, which is not looked at.

    Raises:
        ValueError: It tells what is none of a model.
    """
    source = f'{flag} {path}'
    if path.endswith(SAFETENSORS):
        told = _exported(read_exported(path, flag)[0], source)
    else:
        told = recorded_args(checkpoint, source)
        # Without arguments, timm's saver stores the name of the class here, which may be no model's name.
        name = checkpoint.get('arch')
        if isinstance(name, str) and (is_plain_name(name) or told):
            told.setdefault('model', name)
    described = _checked(told, source)
    if isinstance(told.get('class_to_idx'), dict):
        described['class_to_idx'] = told['class_to_idx']
    return described


def check_folder(folder: str, flag: str) -> dict[str, Any]:
    """Looks at a folder that timm reads as `local-dir:FOLDER`, which may be anybody's.

    Args:
        folder: The folder, with `config.json` and weights in it.
        flag: The flag that named it, for the sentence.

    Returns:
        The arguments of the model's constructor that it holds.

    Raises:
        ValueError: Its configuration or its weights cannot be read, or tell what is none of a model.
    """
    source = f'{flag} {LOCAL}{folder}'
    try:
        with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
            config = parse_json(file.read(MOST_BYTES))  # one that is larger is cut off, and so none
        if not isinstance(config, dict):
            raise ValueError
    except OSError as error:
        raise ValueError(
            f'{source} has no config.json that can be opened ({error.strerror}): give a folder that was '
            'exported for timm.'
        ) from error
    except ValueError as error:
        raise ValueError(
            f'{source} is damaged: its config.json is not a JSON object; give a folder that was exported for timm.'
        ) from error
    _checked(_exported(config, source), source)
    found = (sorted(glob.glob(os.path.join(glob.escape(folder), name))) for name in WEIGHTS)
    if paths := next(filter(None, found), None):
        check_checkpoint(paths[0], flag, averaged=True)
    return config.get('model_args') or {}


def check_local(name: str, flag: str, build: Callable[[], nn.Module]) -> str:
    """Looks at a model that timm reads from a folder, if it does, and builds it once without memory for its weights.

    Args:
        name: Name of the model.
        flag: The flag that gave it, for the sentence.
        build: Builds it, without its weights.

    Returns:
        Flag and name, for sentences; empty where the model is none of a folder.

    Raises:
        ValueError: The folder tells what is none of a model, or one that is larger than its files make plausible.
    """
    place, folder = model_source(name)
    if place != FOLDER:
        return ''
    source = f'{flag} {name}'
    arguments = check_folder(folder, flag)
    check_recorded(build, arguments, sum(entry.stat().st_size for entry in os.scandir(folder)), source)
    return source


def _checked(told: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What of a description is told, after a look at each value."""
    described = {}
    for name, is_sound in CHECKS.items():
        value = told.get(name)
        if value is None or isinstance(value, (str, Mapping)) and not value:
            continue
        if not is_sound(value):
            raise damaged(source, f'{in_words(value)} as {name}')
        described[name] = value
    return described


def is_plain_name(name: str) -> bool:
    """Whether a name is that of an architecture that timm knows, and not of a place to read one from."""
    try:
        source, architecture = parse_model_name(name)
    except ValueError:
        return False
    return source is None and timm.is_model(architecture)


def same_architecture(name: str, other: str) -> bool:
    """Whether two names differ in the tag of their weights at most."""
    return name.partition('.')[0] == other.partition('.')[0]


def described_name(described: Mapping[str, Any], source: str, flag: str) -> str:
    """The architecture that a description names; empty where it names none.

    Args:
        described: What `describe` found.
        source: Flag and file of the checkpoint, for the sentence.
        flag: The flag that would say it.

    Raises:
        ValueError: It names one that timm does not know, or a place.
    """
    name = described.get('model', '')
    if name and not is_plain_name(name):
        raise ValueError(f'{source} names the model {name:.100}, which timm does not know: give {flag}.')
    return name


def model_arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    """Further arguments of the model's constructor, as a description tells them."""
    arguments = dict(described.get('model_kwargs') or {})
    if 'bn_eps' in described:
        arguments.setdefault('bn_eps', described['bn_eps'])
    return arguments


def described_size(described: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Size of the run's images, (H, W); None where nothing tells."""
    if 'input_size' in described:
        return tuple(described['input_size'][1:])
    return (described['img_size'],) * 2 if 'img_size' in described else None


def described_channels(described: Mapping[str, Any]) -> int | None:
    """Channels of the run's images; None where nothing tells."""
    return described.get('in_chans') or (described['input_size'][0] if 'input_size' in described else None)


def _exported(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What timm's config.json says, as arguments of timm's scripts."""
    arguments, of_images = config.get('model_args') or {}, config.get('pretrained_cfg') or {}
    labels = config.get('label_names') or ()
    if not (isinstance(arguments, Mapping) and isinstance(of_images, Mapping) and isinstance(labels, (list, tuple))):
        raise damaged(source, 'a description in a form that timm does not write')
    arguments = dict(arguments)
    return dict(
        model=config.get('architecture'),
        num_classes=config.get('num_classes'),
        gp=arguments.pop('global_pool', None),
        in_chans=arguments.pop('in_chans', None),
        class_to_idx={name: index for index, name in enumerate(labels) if isinstance(name, str)},
        model_kwargs={name: value for name, value in arguments.items() if name != 'num_classes'},
        **{name: of_images[name] for name in OF_IMAGES if name in of_images},  # its size has the channels too
    )


def _are_numbers(above: float = -MOST) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= MOST_CHANNELS
        and all(map(Range(above=above, most=MOST).holds, value))
    )


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and CHANNELS.holds(value[0])
        and all(map(EDGE.holds, value[1:]))
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_LETTERS


# Whether a value can be one of its option. The arguments of a constructor are looked at where it is called.
CHECKS: dict[str, Callable[[Any], bool]] = {
    'model': _is_word,
    'num_classes': Range(least=0, most=MOST_CLASSES, whole=True).holds,
    'gp': _is_word,
    'in_chans': CHANNELS.holds,
    'bn_eps': Range(above=0, most=MOST).holds,
    'model_kwargs': lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
    'img_size': EDGE.holds,
    'input_size': _is_size,
    'mean': _are_numbers(),
    'std': _are_numbers(above=0),
    'crop_pct': Range(above=0.01, most=MOST).holds,
    'interpolation': _is_word,
}
