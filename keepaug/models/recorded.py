"""Models that a file describes, checked before they are built.

The arguments of a model in a checkpoint or a config.json may be anybody's. Some would build for hours (a stage of a
million blocks), some would fill the memory (a layer of a million channels), some name files for timm to read.
"""

import inspect
import math
import reprlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import timm
import torch
from torch import nn
from torch.nn.modules import module as registration

# The largest network of timm has 2,541 modules, and no argument of any a number of this size.
MOST_MODULES = 10_000
MOST = 100_000
MOST_ENTRIES = 1_000
# Weights that a model may have beyond the bytes of its file, which usually holds four for each.
SPARE = 2**28
SECONDS = 60
# Images of more pixels per side are no network's.
MOST_PIXELS = 16_384
# What timm's factory takes itself: names of files and of places to download from.
OF_FACTORY = {
    name
    for name, parameter in inspect.signature(timm.create_model).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
}


class _TooLarge(Exception):
    """A model is larger than its file makes plausible."""


def check_recorded(build: Callable[[], nn.Module], arguments: Any, size: int, source: str) -> None:
    """Refuses in one sentence to build a model that a file describes implausibly.

    Builds it once without memory for its weights; draws no random numbers. What is merely wrong with the arguments is
    left to the real building.

    Args:
        build: Builds it, without pretrained weights.
        arguments: The arguments of the model that come from the file.
        size: Bytes of the file with its weights.
        source: What described it, for the sentence.

    Raises:
        ValueError: The arguments are not those of a model, or it is larger than the file makes plausible.
    """
    _check_arguments(arguments, source)
    try:
        with torch.device('meta'), _limited(size + SPARE):
            build()
    except _TooLarge as error:
        raise ValueError(f'{source} is refused: the model it describes {error}.') from error
    except Exception:  # the real building meets it again, and says it better
        pass


def check_images(data_config: Mapping[str, Any], source: str) -> None:
    """Refuses in one sentence a description of images that cannot be right.

    Args:
        data_config: `input_size` (C, H, W), `mean`, `std` and `crop_pct`.
        source: What described them, for the sentence.

    Raises:
        ValueError: Images cannot be prepared with these numbers.
    """
    for name, least, most in (
        ('input_size', 1, MOST_PIXELS),
        ('mean', -math.inf, math.inf),
        ('std', 0, math.inf),
        ('crop_pct', 0.01, 100),
    ):
        value = data_config[name]
        for number in value if isinstance(value, (list, tuple)) else (value,):
            # The deviation and the crop may be as small as they like but not 0.
            in_range = isinstance(number, (int, float)) and least <= number <= most and math.isfinite(number)
            if not in_range or name == 'std' and number == 0:
                raise ValueError(
                    f'{source} prepares images with {name} {reprlib.repr(value)}: give --{name.replace("_", "-")}.'
                )


def statistics_problem(args: Mapping[str, Any], channels: int) -> str:
    """What is wrong with the means and deviations that images are given, as a sentence; empty where nothing is.

    Args:
        args: Options.
        channels: Channels of the images.
    """
    for name in ('mean', 'std'):
        values = args.get(name)
        if values and len(values) not in (1, channels):
            return (
                f'--{name} {" ".join(map(str, values))} has {len(values)} values for {channels} channels: give one for '
                'each channel, or one for all.'
            )
        if values and max(map(abs, values)) > 1:
            return (
                f'--{name} {" ".join(map(str, values))} is of pixels from 0 to 255, and here they are from 0 to 1: '
                'divide it by 255.'
            )
    return ''


def _check_arguments(arguments: Any, source: str) -> None:
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise ValueError(f'{source} is refused: the arguments it holds for its model have no names.')
    for name, value in arguments.items():
        if name in OF_FACTORY:
            raise ValueError(f'{source} is refused: it gives {name}, which is not an argument of a model.')
        if not _is_plain(value):
            raise ValueError(
                f'{source} is refused: it gives {name} {reprlib.repr(value)}, which no network has: give '
                '--model-kwargs.'
            )


def _is_plain(argument: Any) -> bool:
    """Whether an argument is made of few plain values, and its numbers together are not large."""
    left, total, entries = [argument], 0.0, 0
    while left:
        value, entries = left.pop(), entries + 1
        if entries > MOST_ENTRIES:
            return False
        if isinstance(value, Mapping):
            left += [*value, *value.values()]
        elif isinstance(value, (list, tuple)):
            left += value
        elif isinstance(value, (int, float)):
            total += abs(value)
        elif not (value is None or isinstance(value, str) and len(value) <= MOST_ENTRIES):
            return False
    return total <= MOST


@contextmanager
def _limited(most_weights: int) -> Iterator[None]:
    """Ends the building of a model where it becomes too large or takes too long."""
    modules = weights = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise _TooLarge(f'has more than {MOST_MODULES} modules')

    def count_weights(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal weights
        weights += 0 if tensor is None else tensor.numel()
        if weights > most_weights:
            raise _TooLarge('has many more weights than the file can hold')

    with ExitStack() as stack:
        for hook in (
            registration.register_module_module_registration_hook(count_module),
            registration.register_module_parameter_registration_hook(count_weights),
            registration.register_module_buffer_registration_hook(count_weights),
        ):
            stack.callback(hook.remove)
        stack.enter_context(_alarm(SECONDS))
        yield


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    """Raises after a while, where the alarm of the process is free."""
    free = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    if not free or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLarge(f'takes more than {seconds} s to build')

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
