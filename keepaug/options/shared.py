"""Flags that the training and the validation script have in common, word for word."""

import argparse
import difflib
import os
import re
import textwrap
from typing import NoReturn

from timm.utils import ParseKwargs

from keepaug.methods.refusals import all_flags

# How argparse says that a value is none of its type, and what is taken.
INVALID = re.compile(r"argument (\S+): invalid (\w+) value: '(.*)'", re.DOTALL)
# How it says that a flag has too few values.
TOO_FEW = re.compile(r'argument (\S+): expected (.+?) arguments?')
KINDS = {'int': 'a whole number', 'float': 'a number', 'tau': 'a number'}
# What word processors and web pages make of two hyphens.
LONG_DASHES = '\u2012\u2013\u2014\u2015\u2212'


class Keywords(ParseKwargs):
    """Keyword arguments as `KEY=VALUE`, each value a Python literal, or text where it is none."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for word in filter(None, values):
            if not word.partition('=')[0].isidentifier() or '=' not in word:
                raise argparse.ArgumentError(self, f'{word!r} is not KEY=VALUE, such as drop_rate=0.1')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (MemoryError, RecursionError) as error:
            raise argparse.ArgumentError(self, 'a value has too many brackets: drop it') from error


def _wanted(name: str, kind: str) -> str:
    """What a flag takes, in words, given how argparse calls its type."""
    flag = all_flags().get(name.lstrip('-').replace('-', '_'))
    if flag is None:
        return KINDS.get(kind, kind)
    instead = f' or {flag.range.instead}' if flag.range is not None and flag.range.instead else ''
    return KINDS.get(kind, flag.values or kind) + instead


class Parser(argparse.ArgumentParser):
    """Names the nearest flag where one is mistyped, and shows one group of flags before another in its help."""

    def parse_args(self, args=None, namespace=None):
        known, unknown = self.parse_known_args(args, namespace)
        for word in (vars(known).get('data') or '', *unknown):
            name = word.lstrip(LONG_DASHES + '-')
            if word.startswith(tuple(LONG_DASHES)) and name[:1].isalpha() and not os.path.exists(word):
                self.error(f'{word} begins with a dash that no flag has: write {"--"[: len(name)]}{name}.')
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        return known

    def error(self, message: str) -> NoReturn:
        if invalid := INVALID.fullmatch(message):
            name, kind, value = invalid.groups()
            name = name.split('/')[-1]  # of -b/--batch-size
            message = f'{name} must be {_wanted(name, kind)}, got {value}.'
        if few := TOO_FEW.fullmatch(message):
            flag, number = few.groups()
            wanted = 'a value: give one' if number.endswith('one') else f'{number} values: give all of them'
            message = f'{flag.split("/")[-1]} needs {wanted}.'
        _, told, words = message.partition('unrecognized arguments: ')
        for word in words.split() if told else ():
            name = word.partition('=')[0]
            nearest = difflib.get_close_matches(name[:100], self._option_string_actions, n=1)
            if name.startswith('--') and nearest:
                message += f'; the nearest flag to {name[:100]} is {nearest[0]}'
        if told and not words.startswith('-'):
            taken = any(action.dest == 'data' for action in self._actions)
            message += f'; no flag takes it{", and one folder of data is read" * taken}: drop it'
        super().error(message)

    def show_first(self, since: int) -> None:
        """Moves the groups that were added after the first `since` to the top of the help, behind -h."""
        groups = self._action_groups
        self._action_groups = [*groups[:2], *groups[since:], *groups[2:since]]

    @property
    def flags(self) -> frozenset[str]:
        """Every flag, with its dashes."""
        return frozenset(self._option_string_actions)

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self._action_groups)


class HelpFormatter(argparse.HelpFormatter):
    """Shows the default of every flag that has one (`None`, off and empty ones say nothing), and leaves flags whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(' '.join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return '\n'.join(indent + line for line in self._split_lines(text, width - len(indent)))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is argparse.SUPPRESS or not action.default and action.default != 0
        silent = silent or '(default' in (action.help or '')  # told there in words
        return action.help if silent or action.default is False else f'{action.help} (default: %(default)s)'


def add_data_source(group) -> None:
    """Where the images come from; `group` is a parser or an argument group, here and below."""
    add = group.add_argument
    add('data', nargs='?', metavar='DIR', help='root folder of the data set')
    add('--data-dir', metavar='DIR', help='root folder of the data set, as a flag')
    add('--dataset', default='', metavar='TYPE/NAME', help='reader and name, such as tfds/cifar10; empty for a folder')
    add('--dataset-download', action='store_true', help='let readers that can download do so (torch/, tfds/)')
    add('--class-map', type=str, default='', metavar='FILE', help='text file that maps class names to label indices')
    add('--input-img-mode', type=str, metavar='MODE', help='Pillow mode to open images in, such as RGB or L')
    add('--input-key', type=str, metavar='KEY', help='field of a sample that holds the image')
    add('--target-key', type=str, metavar='KEY', help='field of a sample that holds the label')
    add('--dataset-trust-remote-code', action='store_true', help='run the code that a Hugging Face data set ships')


def add_input_shape(group) -> None:
    """Size, crop and normalisation of the images; all fall back on what the model was made for."""
    add = group.add_argument
    add('--img-size', type=int, metavar='PX', help='side of the square input image, in pixels')
    add('--in-chans', type=int, metavar='N', help='number of input channels')
    add('--input-size', type=int, nargs=3, metavar='N', help='channels, height and width of the input, in pixels')
    add('--crop-pct', type=float, metavar='SHARE', help='share of the resized image that the evaluation crop keeps')
    add('--mean', type=float, nargs='+', metavar='X', help='channel means to subtract, for pixels in [0, 1]')
    add('--std', type=float, nargs='+', metavar='X', help='channel deviations to divide by, for pixels in [0, 1]')
    add('--interpolation', type=str, default='', metavar='NAME', help='filter that resizes evaluation images')


def add_head(group) -> None:
    """The classifier of the model."""
    add = group.add_argument
    add('--num-classes', type=int, metavar='N', help='number of classes; without it, the model decides')
    add('--gp', type=str, metavar='NAME', help='global pooling before the classifier: fast, avg, max, avgmax, ...')


def add_model_kwargs(group) -> None:
    """Free keyword arguments of the model."""
    group.add_argument(
        '--model-kwargs',
        nargs='*',
        default={},
        action=Keywords,
        metavar='KEY=VALUE',
        help='further keyword arguments of the model',
    )


def add_speed(group) -> None:
    """Memory layout and kernels."""
    add = group.add_argument
    add('--channels-last', action='store_true', help='keep tensors in channels-last (NHWC) memory order')
    add('--fuser', type=str, default='', metavar='NAME', help='TorchScript fuser: te, old, nvfuser, ...')
    add('--fast-norm', action='store_true', help='normalisation layers in half precision under AMP where that is safe')


def add_compilation(group):
    """TorchScript or `torch.compile`; returns the exclusive group, for compilers that only one script has."""
    group.add_argument('--torchcompile-mode', type=str, metavar='MODE', help='mode handed to torch.compile')
    compilers = group.add_mutually_exclusive_group()
    compilers.add_argument('--torchscript', action='store_true', help='script the whole model with torch.jit')
    compilers.add_argument(
        '--torchcompile',
        nargs='?',
        type=str,
        const='inductor',
        metavar='BACKEND',
        help='compile the model with torch.compile; alone: inductor',
    )
    return compilers


def add_precision(group) -> None:
    """Device and number formats."""
    add = group.add_argument
    add('--device', type=str, default='cuda', metavar='NAME', help='device that computes: cuda, cuda:1, cpu, mps, ...')
    add('--amp', action='store_true', help='automatic mixed precision')
    add('--amp-dtype', type=str, default='float16', metavar='DTYPE', help='half format of AMP: float16 or bfloat16')
    add('--model-dtype', type=str, metavar='DTYPE', help='format of weights and input: float32, float16 or bfloat16')


def add_loading(group) -> None:
    """Worker processes and the way of a batch to the device."""
    add = group.add_argument
    add('-j', '--workers', type=int, default=4, metavar='N', help='loader processes per training process')
    add('--pin-mem', action='store_true', help='pin host memory for faster copies to the GPU')
    add('--no-prefetcher', action='store_true', help='normalise in the workers and copy without a second stream')


def add_naflex(group) -> None:
    """Batches of patches from images of any size and aspect."""
    add = group.add_argument
    add('--naflex-loader', action='store_true', help='feed patch sequences at native aspect (NaFlex models)')
    add('--naflex-max-seq-len', type=int, default=576, metavar='N', help='longest evaluation sequence, in patches')


def add_seed(group) -> None:
    """The one seed of a run."""
    group.add_argument('--seed', type=int, default=42, metavar='N', help='random seed')
