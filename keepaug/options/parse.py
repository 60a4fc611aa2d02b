"""From a command line to the arguments of a run and the text of its `args.yaml`."""

import argparse
import logging
from collections.abc import Sequence

import yaml

from keepaug.installation import command
from keepaug.options import shared
from keepaug.options.add_arguments import add_arguments
from keepaug.options.argv import stock_first, typed_options
from keepaug.options.config import read_defaults, replaced_defaults
from keepaug.options.newer import add_newer, implied_defaults, name_loss
from keepaug.options.train import create_train_parser

_logger = logging.getLogger('train')


def create_parser() -> shared.Parser:
    """The parser of our training script: stock's flags, newer ones, those of the methods and of this script."""
    parser = create_train_parser()
    stock_first(parser)
    add_newer(parser)
    stock = parser.count
    add_arguments(parser)
    add = parser.add_argument_group('this script').add_argument
    add(
        '--check',
        action='store_true',
        help='check the arguments, build the model and open the data, and exit before training',
    )
    add('--local-rank', type=int, default=argparse.SUPPRESS, metavar='N', help='the same as --local_rank')
    parser.show_first(stock)
    example = '--data-dir /data/birds --num-classes 200 --model resnet50 --pretrained --keep-cut'
    parser.epilog = f'{parser.epilog} Example: {" ".join(command("train"))} {example}'
    return parser


def create_config_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What is read from the command line first: the files of defaults, and what no argument of a run holds."""
    config = argparse.ArgumentParser(prog=parser.prog, usage=parser.usage, add_help=False)
    config.add_argument('-c', '--config', action=_AddFile, default='')
    config.set_defaults(configs=[])
    _add_sweep(config)
    return config


class _AddFile(argparse.Action):
    """Collects the files of `-c` in `configs`; `config` is the last one, which in stock's parser is the only one."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        namespace.config = values
        namespace.configs = [*namespace.configs, values]


def without_sweep(argv: Sequence[str]) -> list[str]:
    """A command line less what timm's sweep.py adds to it, which is of one attempt alone."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_sweep(parser)
    return parser.parse_known_args(argv)[1]


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--sweep-locks', nargs='+', default=(), metavar='PATH')
    parser.add_argument('--sweep-attempt', nargs=2, default=('', ''), metavar=('FILE', 'ID'))


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, str]:
    """The options of a command line, and the text of `args.yaml`: every argument as parsed, sorted by name.

    Arguments stock does not have stay out of the text where all stand at their defaults, so that a run without them
    writes what stock writes.

    Raises:
        SystemExit: As `parse_options`.
    """
    args, typed = _parse(parser, argv)
    flags = stock_first(parser).newer
    newer = {action.dest: action.default for action in flags if action.default is not argparse.SUPPRESS}
    ours = {name for name, default in newer.items() if vars(args)[name] != default}
    stock = {name: value for name, value in vars(args).items() if name not in newer}
    recorded = {**stock, **{name: vars(args)[name] for name in (newer if ours else ()) if name != 'check'}}
    text = yaml.safe_dump(recorded, default_flow_style=False)
    return _complete(args, typed), text


def parse_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses `argv` (default: that of the process) with defaults from the YAML files of `-c/--config`, one file each.

    Built-in defaults yield to the files, an earlier file to a later one, all of them to the command line.

    Raises:
        SystemExit: status 2 and one sentence on stderr for whatever the user got wrong.
    """
    return _complete(*_parse(parser, argv))


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, frozenset[str]]:
    """The options, and the names of those that stand on the command line."""
    given, rest = create_config_parser(parser).parse_known_args(argv)
    try:
        known, unknown, told = read_defaults(parser, [path for path in given.configs if path])
    except ValueError as error:
        parser.error(str(error))
    with replaced_defaults(parser, known):
        args = parser.parse_args(rest, argparse.Namespace(**unknown))
    with replaced_defaults(parser, {**implied_defaults(args), **known}):
        args = parser.parse_args(rest, argparse.Namespace(**unknown))
    if told and vars(args).get('check'):  # as a run does not, for stock's takes any key
        parser.error(f'--config {told[0].sentence}; {told[0].way_out}.')
    for remark in told:
        _logger.warning(f'{remark.sentence}; {remark.taken}.')
    return args, typed_options(parser, rest)


def _complete(args: argparse.Namespace, typed: frozenset[str]) -> argparse.Namespace:
    """The options with what follows from them, and with the names of those that were typed."""
    if hasattr(args, 'loss'):  # a parser of stock's flags alone has none
        name_loss(args)
    args.typed = typed
    return args
