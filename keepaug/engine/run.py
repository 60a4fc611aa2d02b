"""What surrounds the epochs: the output folder before, the record of results after."""
import json
import os
from datetime import datetime

from timm.models import safe_model_name
from timm.utils import get_outdir, trim_summary

from keepaug.engine.tracking import is_decreasing, tracked_metric


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
