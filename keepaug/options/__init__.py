"""The command line: stock's flags, ours, and the checks that turn a bad combination into one clear sentence."""
from keepaug.options.check import check_stock, check_validate, prepare
from keepaug.options.keep import add_arguments
from keepaug.options.parse import create_config_parser, create_parser, parse_args, without_sweep
from keepaug.options.train import create_train_parser
from keepaug.options.validate import add_ours, create_validate_parser

__all__ = [
    'add_arguments', 'add_ours', 'check_stock', 'check_validate', 'create_config_parser', 'create_parser',
    'create_train_parser', 'create_validate_parser', 'parse_args', 'prepare', 'without_sweep',
]
