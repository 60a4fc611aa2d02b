"""Weights that timm loads while it builds a model: whether they came, and no long wait where there is no network."""

import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub.constants as hub
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import get_pretrained_cfg

from keepaug.console.errors import first_line

_logger = logging.getLogger('train')

# What torch and timm raise where weights or states are of another network or run.
UNFIT = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError)
# How torch tells names that one side lacks, and a weight of two shapes.
LACKING = re.compile(r'^\s*(Missing|Unexpected) key\(s\) in state_dict: (.*)$', re.MULTILINE)
NAME = re.compile('"([^"]+)"')
OTHER_SHAPE = re.compile(r'size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)')
# How Python tells an argument that a function does not have, and the flags that arguments of networks come from.
UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
FLAGS_OF = {
    'drop_rate': '--drop',
    'drop_path_rate': '--drop-path',
    'drop_block_rate': '--drop-block',
    'global_pool': '--gp',
    'img_size': '--img-size',
}
NAMED = 3  # of the weights that do not fit
# Share of a model's values, without its classifier, that may be missing in a file of weights for it: an adapted model
# has another norm, pooling or position embedding.
MOST_MISSING = 0.2
# Seconds to wait for the Hub to answer at all.
PATIENCE = 3.0


def tell_misfit(error: Exception) -> str:
    """What an error says of weights that do not fit a model: the first few of each kind, and how many there are."""
    words = {'Missing': 'the file lacks', 'Unexpected': 'the model has no'}
    told = [f'{words[kind]} {_some(NAME.findall(names))}' for kind, names in LACKING.findall(str(error))]
    shapes = [
        f'{name} is {theirs} in the file and {ours} in the model'
        for name, theirs, ours in OTHER_SHAPE.findall(str(error))
    ]
    return '; '.join([*told, *([_some(shapes, first=1)] if shapes else [])]) or first_line(error)


def tell_refusal(error: Exception, args: Any) -> str:
    """Why a network of timm's cannot be built, by the flag whose value it does not take.

    Args:
        error: What timm raised.
        args: Options, with `model`, `model_kwargs` and `gp`.
    """
    text = str(error)
    named = UNKNOWN_ARGUMENT.search(text)
    if named and named[1] in args.model_kwargs:
        return f'it has no argument {named[1]}, which --model-kwargs gives; drop that'
    if named and named[1] in FLAGS_OF:
        return f'it does not know {FLAGS_OF[named[1]]}; drop that'
    of_pooling = 'pool' in text.lower() and 'state_dict' not in text or isinstance(error, AssertionError) and not text
    if args.gp and of_pooling:
        return f'it has no pooling --gp {args.gp}; give one of its own, such as avg, or drop it'
    return tell_misfit(error)


def tell_unloaded(error: OSError) -> str:
    """Why published weights cannot be had."""
    if isinstance(error, LocalEntryNotFoundError):
        return 'they are not in the cache, and the Hub cannot be reached'
    # What an error of the system says ends with a path; what one of a download says goes on with advice.
    return first_line(error) if error.errno is not None else first_line(error).split('. ')[0]


def _some(names: list[str], first: int = NAMED) -> str:
    more = len(names) - first
    return ', '.join(names[:first]) + (f' and {more} more' if more > 0 else '')


@contextmanager
def one_short_try(wanted: bool = True) -> Iterator[None]:
    """Lets timm look for pretrained weights in its cache alone where the Hub cannot be reached.

    The Hub's own client would try again and again, for a minute or two.

    Args:
        wanted: Whether anything is to be had from there at all.
    """
    if not wanted or hub.HF_HUB_OFFLINE or _answers(hub.ENDPOINT):
        yield
        return
    with _replaced(hub, 'HF_HUB_OFFLINE', True):
        yield


def is_hub_reachable() -> bool:
    """Whether weights that are not in a cache can be had."""
    return not hub.HF_HUB_OFFLINE and _answers(hub.ENDPOINT)


def are_cached(name: str) -> bool:
    """Whether the published weights of a model lie on this machine."""
    config = get_pretrained_cfg(name)
    if config is None:
        return False
    files = [config.hf_hub_filename] if config.hf_hub_filename else ['model.safetensors', 'pytorch_model.bin']
    if config.hf_hub_id and any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in files):
        return True
    local = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(str(config.url or '')))
    return bool(config.file or config.state_dict) or bool(config.url) and os.path.isfile(local)


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    if getproxies().keys() & {parts.scheme, 'all'}:
        return True  # it may be reached some other way
    port = parts.port or {'http': 80}.get(parts.scheme, 443)
    try:
        socket.create_connection((parts.hostname, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


class LoadedWeights:
    """What `load_state_dict` was given while a model was built.

    Attributes:
        missing: Names of weights of the model that were not loaded; None where nothing was.
    """

    def __init__(self) -> None:
        self.missing: list[str] | None = None

    def check(self, model: torch.nn.Module, source: str, name: str) -> None:
        """Says in a sentence that a file's weights did not enter a model; some that did not, in a warning.

        Args:
            model: The model.
            source: Flag and file of the weights.
            name: Flag and name of the model.

        Raises:
            ValueError: More than a part of the weights, the classifier's aside, are not in the file.
        """
        if self.missing is None:  # timm has loaded NumPy's arrays by another way, which wants them all
            return
        weights = {
            key: value.numel() for key, value in model.state_dict().items() if not _is_of(key, classifiers(model))
        }
        missing = [key for key in self.missing if key in weights]
        share = sum(weights[key] for key in missing) / max(1, sum(weights.values()))
        if share > MOST_MISSING:
            raise ValueError(
                f'{source} belongs to another network than {name}: it lacks {len(missing)} of its {len(weights)} '
                f'weights, such as {missing[0]}; give weights of this network, or the --model of the file.'
            )
        if missing:
            _logger.warning(
                f'{source} lacks {len(missing)} of the {len(weights)} weights of {name}, such as {missing[0]}: these '
                'start at random.'
            )


@contextmanager
def watched_loading() -> Iterator[LoadedWeights]:
    """Takes down which weights a model that is built meanwhile does not get from a file; timm tells its log alone."""
    loaded, load = LoadedWeights(), torch.nn.Module.load_state_dict

    def watch(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load(module, *args, **kwargs)
        loaded.missing = list(result.missing_keys)
        return result

    with _replaced(torch.nn.Module, 'load_state_dict', watch):
        yield loaded


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an attribute another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def classifiers(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of a model's last layers, as its pretrained configuration has them."""
    named = (getattr(model, 'pretrained_cfg', None) or {}).get('classifier') or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _is_of(key: str, modules: Iterable[str]) -> bool:
    return any(key.startswith(f'{module}.') for module in modules)
