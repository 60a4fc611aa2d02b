"""The command line: stock's flags, ours, and the checks that turn a bad combination into one clear sentence."""

from keepaug.options.add_arguments import add_arguments
from keepaug.options.argv import typed_options
from keepaug.options.parse import create_config_parser, create_parser, parse_args, parse_options, without_sweep
from keepaug.options.prepare import prepare, refuse
from keepaug.options.rehearsal import check_share, rehearsed, to_be_fetched
from keepaug.options.stock_checks import check_stock
from keepaug.options.train import create_train_parser
from keepaug.options.validate import add_ours, create_validate_parser
from keepaug.options.validation_checks import check_validate, complete_validation

__all__ = [
    'add_arguments',
    'add_ours',
    'check_share',
    'check_stock',
    'check_validate',
    'complete_validation',
    'create_config_parser',
    'create_parser',
    'create_train_parser',
    'create_validate_parser',
    'parse_args',
    'parse_options',
    'prepare',
    'refuse',
    'rehearsed',
    'to_be_fetched',
    'typed_options',
    'without_sweep',
]
