"""What surrounds the epochs: the output folder, the record of results, errors told in a sentence."""
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import datetime

import torch
from timm.models import safe_model_name
from timm.utils import get_outdir, trim_summary

from keepaug.engine.tracking import is_decreasing, tracked_metric

_logger = logging.getLogger('train')


def open_output_dir(args, args_text: str, data_config: dict, start_epoch: int) -> str:
    """Makes the run's folder, with `args.yaml` in it and a `summary.csv` that ends before `start_epoch`.

    Raises:
        ValueError: The folder cannot be written.
    """
    name = args.experiment or '-'.join([
        datetime.now().strftime('%Y%m%d-%H%M%S'), safe_model_name(args.model), str(data_config['input_size'][-1])])
    parent = args.output or './output/train'
    try:
        output_dir = get_outdir(parent, name)
        with open(os.path.join(output_dir, 'args.yaml'), 'w') as file:
            file.write(args_text)
        trim_summary(os.path.join(output_dir, 'summary.csv'), start_epoch)
    except OSError as error:
        raise ValueError(
            f'The output folder {os.path.join(parent, name)} cannot be written ({error.strerror}); '
            f'choose another with --output.') from error
    return output_dir


def print_results(results: list[dict], args) -> None:
    """Writes the ten best epochs to stdout as JSON, worst first, behind a line `--result`."""
    metric = tracked_metric(args)
    best_last = sorted(
        results, key=lambda result: (result['validation'] or result['train'])[metric],
        reverse=is_decreasing(args))[-10:]
    print(f'--result\n{json.dumps(best_last, indent=4)}')


def explain_errors(main: Callable[[], object]) -> None:
    """Runs a script's main function and turns what its user can mend into one sentence and exit status 2.

    Builders raise `ValueError` and `OSError` for such things; anything else is a defect and keeps its traceback.
    """
    try:
        main()
    except (ValueError, OSError) as error:
        rank = os.environ.get('RANK')
        where = f' [process {rank}]' if rank else ''
        print(f'{os.path.basename(sys.argv[0])}: error{where}: {_sentence(error)}', file=sys.stderr)
        _leave(2)


def _leave(status: int) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Other processes wait in a collective that this one will never join: leave without waiting for them.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _sentence(error: Exception) -> str:
    """The message without the traceback that a loader worker puts around it."""
    text = str(error).strip()
    if 'Original Traceback' in text:
        text = text.splitlines()[-1].split(': ', 1)[-1]
    return text
