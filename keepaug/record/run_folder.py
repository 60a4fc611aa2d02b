"""The folder of a run: made before the first epoch, never mixed with another run."""
import logging
import os
from datetime import datetime

from timm.models import safe_model_name
from timm.utils import get_outdir

from keepaug.files.checkpoints import LAST, newest_epoch
from keepaug.files.drafts import whole_file
from keepaug.record.summary import Summary

_logger = logging.getLogger('train')


def run_folder(args, name: str = '') -> str:
    """The folder of a run: `--experiment` or else `name`, in that of all runs."""
    return os.path.join(args.output or './output/train', args.experiment or name)


def open_output_dir(args, args_text: str, data_config: dict, start_epoch: int) -> str:
    """Makes the run's folder, with `args.yaml` in it and a `summary.csv` that ends before `start_epoch`.

    Raises:
        ValueError: The folder cannot be written.
    """
    folder = run_folder(args, '-'.join([
        datetime.now().strftime('%Y%m%d-%H%M%S'), safe_model_name(args.model), str(data_config['input_size'][-1])]))
    if not continues(args, folder):
        _warn_of_another_run(folder)
    try:
        output_dir = get_outdir(folder)
        with whole_file(os.path.join(output_dir, 'args.yaml')) as draft, open(draft, 'w') as file:
            file.write(args_text)
        _trim_summary(output_dir, start_epoch)
    except OSError as error:
        raise ValueError(
            f'The output folder {folder} cannot be written ({error.strerror}); '
            f'choose another with --output.') from error
    return output_dir


def continues(args, folder: str) -> bool:
    """Whether a run goes on in the folder it is resumed from."""
    return bool(args.resume) and os.path.realpath(os.path.dirname(args.resume)) == os.path.realpath(folder)


def _warn_of_another_run(folder: str) -> None:
    """Says, as nothing else does, that a run is about to be overwritten."""
    last = os.path.join(folder, LAST)
    last = last if os.path.exists(last) else newest_epoch(folder)
    if last:
        _logger.warning(
            f'{folder} holds another run, which this one overwrites: to go on with it give --resume {last}, to keep it '
            'another --experiment.')


def open_summary(folder: str) -> Summary:
    """The summary of the run in a folder."""
    return Summary(os.path.join(folder, 'summary.csv'))


def _trim_summary(folder: str, start_epoch: int) -> None:
    """Drops the rows that will be written anew."""
    summary = open_summary(folder)
    dropped = summary.drop_from(start_epoch)
    if dropped:
        _logger.info(
            f'Dropping {dropped} rows at or after epoch {start_epoch} from {summary.path}'
            + (' (new run into an existing output dir).' if start_epoch == 0 else '.'))
