"""Whatever is typed, the answer is a run or one sentence: flags and values drawn at random, and each flag's range."""

import argparse
import contextlib
import io
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keepaug.console.errors import MENDABLE
from keepaug.demo import create_parser as create_demo_parser
from keepaug.export.command import create_parser as create_export_parser
from keepaug.methods.refusals import all_flags
from keepaug.options import (
    add_ours,
    check_stock,
    check_validate,
    complete_validation,
    create_parser,
    create_validate_parser,
    parse_options,
    prepare,
)
from keepaug.options.flag_ranges import RANGES, STUDY_RANGES, range_rows
from keepaug.preview import check_preview
from keepaug.preview import create_parser as create_preview_parser
from keepaug.study.flags import create_parser as create_study_parser

# Of these the whole command is another one, or files are read whose doors have tests of their own.
LEFT_OUT = ('help', 'check', 'config', 'device_modules')
NUMBERS = '0 1 -1 2 3 8 0.5 1.5 -0.1 0.0 1e-9 1e9 1e308 99999999999 -99999999999 nan inf -inf 1e999 1_0 0x10'.split()
TEXTS = (
    *(
        '',
        ' ',
        '0',
        '-',
        'none',
        'None',
        'banana',
        'a=b',
        'a=[[',
        '=',
        'cuda',
        'cpu',
        'meta',
        'mps',
        'auto',
        '{}',
        '{x}',
    ),
    *('/', '.', '/dev/null', 'ä', '%s', '0,1', '-1', 'a,b', '1e400', 'all', 'self', 'path/to', 'x' * 300),
    *('torch/cifar10', 'tfds/x', 'hfds/x', 'keepaug/cluttered-digits', 'hf-hub:x', 'local-dir:/x', 'timm/resnet18'),
)
# Values that open doors which random text never finds.
KNOWN = {
    'model': ['test_resnet', 'resnet18', 'vit_tiny_patch16_224', 'naflexvit_base_patch16_gap', 'all', 'resnet*'],
    'kd_model_name': ['resnet18', 'test_vit'],
    'opt': ['adamw', 'sgd', 'lion', 'lookahead_adam', 'adafactor', 'muon', 'rmsproptf', 'adahessian', 'adopt'],
    'sched': ['cosine', 'tanh', 'step', 'multistep', 'poly', 'wsd', 'rsqrt', 'constant', 'plateau', 'none'],
    'aa': ['rand-m9-mstd0.5', 'augmix-m5-w4', 'v0', '3a', 'tv-cifar10', 'tv-cifar10-m99', 'rand-m9-n0', 'rand'],
    'train_crop_mode': ['rrc', 'rkrc', 'rkrr', 'pad4'],
    'mixup_mode': ['batch', 'pair', 'elem', 'half'],
    'attentive_teacher': ['self', 'resnet152'],
    'amp_dtype': ['float16', 'bfloat16'],
    'model_dtype': ['float32', 'float16', 'bfloat16'],
    'opt_kwargs': ['nesterov=False', 'foreach=True', 'betas=3', 'caution=1'],
    'feature_cutmix': ['0', '0,1', 'all'],
    'manifold_mixup': ['0', '0,1', 'all'],
    'spectrum_class': ['0', '0,3,7'],
    'results_format': ['csv', 'json'],
}


def value_of(action: argparse.Action) -> st.SearchStrategy[str]:
    """One word for a flag: more often one that may be right than not."""
    if action.choices:
        right = st.sampled_from(list(map(str, action.choices)))
    elif action.type is int:
        right = st.one_of(st.integers(1, 4), st.integers(1, 300)).map(str)
    elif action.type is float:
        right = st.floats(0, 1).map(str)
    else:
        right = st.sampled_from(KNOWN.get(action.dest, TEXTS))
    wrong = [st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.text(st.characters(codec='utf-8'), max_size=4)]
    return st.one_of(right, right, right, *wrong)


def words_of(action: argparse.Action) -> st.SearchStrategy[list[str]]:
    """A flag with its values, now and then too few or too many of them, or a stray word."""
    flag = list(action.option_strings[-1:])
    counts = {None: (1, 1), 0: (0, 0), '?': (0, 1), '*': (0, 3), '+': (1, 4)}
    least, most = counts.get(action.nargs, (action.nargs, action.nargs))
    return st.lists(value_of(action), min_size=least, max_size=most).map(lambda values: flag + values)


def command_lines(parser: argparse.ArgumentParser) -> st.SearchStrategy[list[str]]:
    actions = [action for action in parser._actions if action.dest not in LEFT_OUT]
    ours = [action for action in actions if action.dest in ('keep_cut', 'keep_paste', 'joint_occlusion', 'cutout')]
    flags = st.one_of(st.sampled_from(actions), st.sampled_from(ours or actions)).flatmap(words_of)
    return st.lists(flags, min_size=1, max_size=6).map(lambda parts: [word for part in parts for word in part])


TRAIN, PREVIEW, VALIDATE = create_parser(), create_preview_parser(), create_validate_parser()
add_ours(VALIDATE)
for each in (TRAIN, PREVIEW, VALIDATE):
    each.set_defaults(device='cpu')


def train_flags(words: list[str]) -> None:
    check_stock(prepare(parse_options(TRAIN, words)))


def preview_flags(words: list[str]) -> None:
    args = prepare(parse_options(PREVIEW, words))
    check_stock(args)
    check_preview(args)


def validate_flags(words: list[str]) -> None:
    check_validate(complete_validation(VALIDATE.parse_args(words)))


def answer(check: Callable[[list[str]], None], words: list[str]) -> str:
    """What is said of a command line; empty where nothing is.

    Raises:
        Exception: Whatever is neither a sentence nor success.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            check(words)
    except MENDABLE as error:
        return str(error)
    except SystemExit as error:
        assert error.code == 2
        return stderr.getvalue().strip().rpartition('error: ')[2] + '.'
    return ''


def holds(check: Callable[[list[str]], None], words: list[str]) -> None:
    said = answer(check, words)
    assert not said or said.endswith('.') and not said.startswith('('), said
    # It names a flag, or the word that no flag takes.
    assert not said or '-' in said or 'unrecognized arguments' in said, said


CALM = dict(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=200, phases=[Phase.generate, Phase.shrink], **CALM)
@given(command_lines(TRAIN))
def test_any_flags_of_training(words):
    holds(train_flags, words)


@settings(max_examples=120, phases=[Phase.generate, Phase.shrink], **CALM)
@given(command_lines(VALIDATE))
def test_any_flags_of_validation(words):
    holds(validate_flags, words)


@pytest.mark.slow
@settings(max_examples=10_000, **CALM)
@given(command_lines(PREVIEW))
def test_many_flags_of_training(words):
    holds(preview_flags, words)


@pytest.mark.slow
@settings(max_examples=5_000, **CALM)
@given(command_lines(VALIDATE))
def test_many_flags_of_validation(words):
    holds(validate_flags, words)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(action for action in parser._actions if action.dest == 'format').choices


COMMANDS = {
    'train': (TRAIN, RANGES),
    'preview': (PREVIEW, RANGES),
    'validate': (VALIDATE, RANGES),
    'demo': (create_demo_parser(), RANGES),
    'study': (create_study_parser(), STUDY_RANGES),
    **{f'export {name}': (parser, RANGES) for name, parser in subcommands(create_export_parser()).items()},
}


def numeric_flags():
    """Every flag of every command that takes numbers, with the range that holds there."""
    of_methods = all_flags()
    for command, (parser, ranges) in COMMANDS.items():
        for action in parser._actions:
            if action.type in (int, float) and action.default is not argparse.SUPPRESS:
                allowed = of_methods[action.dest].range if action.dest in of_methods else ranges.get(action.dest)
                yield pytest.param(action, allowed, ranges, id=f'{command} {action.option_strings[-1]}')


@pytest.mark.parametrize('action, allowed, ranges', numeric_flags())
def test_every_number_has_a_range(action, allowed, ranges):
    assert allowed is not None
    wrong = [float('nan'), float('inf'), -float('inf')] if action.type is float else [10**400, -(10**400), 1.5]
    for value in wrong:
        refused = bool(allowed.problem(value))
        assert refused or isinstance(value, int) and (allowed.most if value > 0 else allowed.least) is None
        if action.dest in ranges:
            rows = range_rows(argparse.Namespace(**{action.dest: value}), ranges)
            told = [said for is_refused, said in rows if is_refused]
            assert len(told) == refused and all(f'--{action.dest.replace("_", "-")} ' in said for said in told)
    assert not allowed.problem(action.default) or isinstance(action.default, list)


def test_methods_range_over_numbers_alone():
    """Each flag of a method that takes a number says which, and no other does."""
    for flag in all_flags().values():
        number = flag.type in (int, float)
        assert (flag.range is not None) == number or flag.none_is_typed, flag.option


def test_ranges_are_of_flags_that_exist():
    assert RANGES.keys() <= {action.dest for parser, _ in COMMANDS.values() for action in parser._actions}
