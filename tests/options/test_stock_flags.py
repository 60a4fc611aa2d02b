"""The parsers hold every stock flag as `train_flags.json` and `validate_flags.json` list them, and no other."""

import argparse
import json
from pathlib import Path

import pytest

from keepaug.options import add_arguments, create_parser, create_train_parser, create_validate_parser, parse_args

PARSERS = {'train': create_train_parser, 'validate': create_validate_parser}
KINDS = {'_HelpAction': 'help', '_StoreAction': 'store', '_StoreTrueAction': 'store_true', 'Keywords': 'ParseKwargs'}


def read_contract(script: str) -> dict[str, dict]:
    arguments = json.loads((Path(__file__).parent / f'{script}_flags.json').read_text())['arguments']
    return {argument['dest']: argument for argument in arguments}


def describe(parser: argparse.ArgumentParser) -> dict[str, dict]:
    exclusive = {
        action.dest: number
        for number, group in enumerate(parser._mutually_exclusive_groups)
        for action in group._group_actions
    }
    return {
        action.dest: {
            'option_strings': set(action.option_strings),
            'positional': not action.option_strings,
            'default': action.default,
            'type': action.type and action.type.__name__,
            'nargs': action.nargs,
            'const': action.const,
            'choices': action.choices and list(action.choices),
            'action': KINDS[type(action).__name__],
            'mutually_exclusive_group': exclusive.get(action.dest),
            'required': action.required,
        }
        for action in parser._actions
    }


@pytest.mark.parametrize('script', PARSERS)
def test_contract(script):
    contract, parser = read_contract(script), PARSERS[script]()
    found = describe(parser)
    assert found.keys() == contract.keys() and len(parser._actions) == len(contract)
    for dest, flag in found.items():
        expected = {**contract[dest], 'option_strings': set(contract[dest]['option_strings'])}
        assert flag == {key: expected[key] for key in flag}, dest
        # 0 and 0.0 are written differently in args.yaml.
        assert type(flag['default']) is type(expected['default']), dest


@pytest.mark.parametrize('create', [*PARSERS.values(), create_parser])
def test_every_flag_is_explained(create):
    parser = create()
    assert all(action.help for action in parser._actions)
    assert parser.format_help()


def test_stock_values_are_untouched_by_our_flags():
    stock = vars(create_train_parser().parse_args(['data']))
    ours = vars(create_parser().parse_args(['data']))
    assert stock.items() <= ours.items()
    assert {'keep_cut', 'joint_occlusion', 'check'} <= ours.keys() - stock.keys()


@pytest.mark.parametrize(
    'line, exceptions',
    [
        ('', {}),
        ('--task multilabel', {'eval_metric': 'map', 'smoothing': 0.0}),
        ('--sched wsd', {'decay_epochs': 0.2, 'sched': 'wsd'}),
        ('--sched rsqrt', {'decay_epochs': 0.2, 'sched': 'rsqrt'}),
    ],
)
def test_defaults_that_newer_choices_replace(line, exceptions, tmp_path):
    """Every default of the contract stands but these, and each yields to what is typed or in the file."""
    defaults = {dest: flag['default'] for dest, flag in read_contract('train').items() if dest != 'help'}
    args, _ = parse_args(create_parser(), line.split())
    assert vars(args).items() >= {**defaults, **exceptions}.items()
    config = tmp_path / 'config.yaml'
    config.write_text('smoothing: 0.3')
    typed, _ = parse_args(create_parser(), [*line.split(), '-c', str(config), '--decay-epochs', '7'])
    assert (typed.smoothing, typed.decay_epochs) == (0.3, 7)


def test_the_file_of_defaults_is_mentioned():
    assert '-c FILE, --config FILE' in create_train_parser().format_help()


def test_adding_twice_is_argparse_s_conflict():
    parser = create_train_parser()
    add_arguments(parser)
    with pytest.raises(argparse.ArgumentError, match='conflicting option string'):
        add_arguments(parser)
    args = parser.parse_args(['--j', '--keep-cut', 'data'])
    assert (args.jsd_loss, args.keep_cut, args.data) == (True, 'cutout', 'data')
