"""The folder of a run: made before the first epoch, never mixed with another run."""
import logging
import os
from datetime import datetime

from timm.models import safe_model_name
from timm.utils import get_outdir, summary, trim_summary

from keepaug.console.logs import muted
from keepaug.files.checkpoints import LAST, newest_epoch
from keepaug.files.drafts import draft_of

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
        with draft_of(os.path.join(output_dir, 'args.yaml')) as draft, open(draft, 'w') as file:
            file.write(args_text)
        _trim_summary(os.path.join(output_dir, 'summary.csv'), start_epoch)
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


def _trim_summary(filename: str, start_epoch: int) -> None:
    """Drops the rows that will be written anew."""
    before = _count_lines(filename)
    with draft_of(filename) as draft, muted(summary):  # which would tell of the draft
        trim_summary(draft, start_epoch)
    dropped = before - max(1, _count_lines(filename))
    if dropped > 0:
        _logger.info(
            f'Dropping {dropped} rows at or after epoch {start_epoch} from {filename}'
            + (' (new run into an existing output dir).' if start_epoch == 0 else '.'))


def _count_lines(filename: str) -> int:
    if not os.path.exists(filename):
        return 0
    with open(filename) as file:
        return sum(1 for _ in file)
