"""The commands that follow on a run, for the last lines of its log: each can be pasted as it is."""

import os
import shlex
import sys
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from timm.data import resolve_input_data_config
from torch import nn

from keepaug import options
from keepaug.export.command import FORMATS, fitting_format
from keepaug.export.source import Source
from keepaug.installation import PACKAGE, command
from keepaug.options.argv import stock_first
from keepaug.record.saver import Saver
from keepaug.training.ranking import Ranking

# Flags that both scripts have and that say how a run computes, not what it made; or whose values are given apart.
NOT_PASSED_ON = (
    'data',
    'data_dir',
    'dataset_download',
    'batch_size',
    'device',
    'pretrained',
    'early_exit',
    'seed',
    'fuser',
    'torchscript',
    'torchcompile',
    'torchcompile_mode',
)
# A run that goes on from its own checkpoint says these anew, or not at all.
RESUME_FLAGS = ('--resume', '--no-resume-opt', '--start-epoch')


class ModelFit(NamedTuple):
    """What the commands take from a model.

    Attributes:
        test_config: How the script of validation would let images enter it.
        export_format: The format in which it goes to a detector, or a file of weights.
    """

    test_config: dict[str, Any]
    export_format: str


def fit_model(args: Namespace, model: nn.Module, data_config: dict[str, Any]) -> ModelFit | None:
    """Looks at the model of a run before it is converted, compiled or wrapped.

    Args:
        args: Options.
        model: The model.
        data_config: How images enter it in training.

    Returns:
        None for a model that does not say of itself what timm's do; it can be trained all the same.
    """
    try:
        return ModelFit(
            resolve_input_data_config(model, args=vars(args), use_test_size=True),
            fitting_format(Source('', model, {}, data_config, averaged=False)),
        )
    except Exception:  # advice must not stand in the way of a run
        return None


class NextStep:
    """Tells what can be done with what a run has written.

    Args:
        args: Options, as the run resolved them.
        parser: Parser of the script, which reads its command line.
        saver: What wrote the checkpoints.
        fit: What the commands take from the model.
        data_config: How images enter the model.
        epochs: Epochs of the whole schedule.
    """

    def __init__(
        self,
        args: Namespace,
        parser: ArgumentParser,
        saver: Saver,
        fit: ModelFit | None,
        data_config: dict[str, Any],
        epochs: int,
    ):
        self.args = args
        self.parser = parser
        self.saver = saver
        self.fit = fit
        self.data_config = data_config
        self.epochs = epochs

    @property
    def lost(self) -> bool:
        """Whether the run diverged before any epoch had a finite loss, so that nothing of it is of use."""
        return self.saver.diverged and not self.saver.last_good() and not self.args.resume

    def lines(self, finished: bool = False, diverged: bool = False) -> list[str]:
        """The best checkpoint and the commands, as far as there is what they need.

        Args:
            finished: Whether all epochs are done.
            diverged: Whether the run ended for want of numbers, and would do so again if it went on as it was.
        """
        diverged = diverged or self.saver.diverged
        lines, best = [], self._checkpoint('model_best')
        if best:
            metric = f'{Ranking.from_args(self.args).metric} {self.saver.best_metric:.4g}'
            lines += [f'Best checkpoint: {best} ({metric}, epoch {self.saver.best_epoch})']
            if self.fit is not None:
                lines += self._use(best, self.fit)
        if diverged:
            good = self.saver.last_good() or self.args.resume
            return lines + (
                [
                    f'Last good checkpoint: {good} (to continue from it, change the flags and add --no-resume-opt '
                    f'--resume {good})'
                ]
                if good
                else ['No epoch ended with a finite loss, so there is no checkpoint to continue from.']
            )
        last = self._checkpoint('last') or ('' if self.args.exact_resume else self.saver.curr_recovery_file)
        if not (last or finished) and os.path.isdir(self.saver.checkpoint_dir):  # one that is gone held some, perhaps
            lines += ['This run has written no checkpoint.']
        last = last or self.args.resume
        if last and os.path.exists(last):
            title, changed = ('Train on', self._prolonged()) if finished else ('Resume', {})
            lines += [f'{title}: {self._resume(last, changed)}']
        return lines

    def _use(self, best: str, fit: ModelFit) -> list[str]:
        lines = []
        if self.args.val_split and not self.args.split_bn:  # whose checkpoints validation cannot read, as in stock
            lines += ['Validate it: ' + shlex.join(self._validate(best, fit))]
        return [*lines, 'Export it: ' + shlex.join(self._export(best, fit))]

    def _checkpoint(self, name: str) -> str:
        """A checkpoint of this run, not of one before it in the same folder; empty if there is none."""
        path = os.path.join(self.saver.checkpoint_dir, f'{name}{self.saver.extension}')
        return path if self.saver.best_metric is not None and os.path.exists(path) else ''

    def _validate(self, checkpoint: str, fit: ModelFit) -> list[str]:
        args, root = self.args, self.args.data_dir or self.args.data
        script = ['keepaug-validate'] if _is_command() else ['python', _beside('validate.py')]
        words = [*script, *([root] if root else ())]
        parser = options.create_validate_parser()
        options.add_ours(parser)
        for action in parser._actions:
            value = vars(args).get(action.dest)
            if action.dest == 'model_kwargs' and args.bn_eps is not None:
                value = {**(value or {}), 'bn_eps': args.bn_eps}  # a flag of training only
            if action.dest not in NOT_PASSED_ON and value not in (None, action.default):
                words += _spell(action, value)
        words += ['--batch-size', str(args.validation_batch_size or args.batch_size)]
        device = args.device.partition(':')[0] if args.distributed else args.device
        for flag, value, default in (
            ('--split', args.val_split, 'validation'),
            ('--num-samples', args.val_num_samples, None),
            ('--device', device, 'cuda'),
        ):
            if value != default:
                words += [flag, str(value)]
        # The training script validates at the size of training, and crops the centre.
        config = fit.test_config
        if any(config[name] != self.data_config[name] for name in ('input_size', 'crop_pct')):
            words += ['--use-train-size']
        if config['crop_mode'] != 'center':
            words += ['--crop-mode', 'center']
        if args.model_ema and not args.model_ema_force_cpu:
            words += ['--use-ema']
        return [*words, '--checkpoint', checkpoint]

    def _export(self, checkpoint: str, fit: ModelFit) -> list[str]:
        name = fit.export_format
        output = os.path.join(self.saver.checkpoint_dir, name if FORMATS[name].folder else 'model_best')
        if os.path.exists(output + FORMATS[name].suffix):
            output += f'-{self.saver.best_epoch}'
        return [*command('export'), name, checkpoint, '--output', output + FORMATS[name].suffix]

    def _prolonged(self) -> dict[str, str]:
        """Flags for a run that ended: to the end of its schedule, or for as many epochs again."""
        args = self.args
        if (args.stop_epoch or self.epochs) < self.epochs:
            return {'--stop-epoch': str(self.epochs)}
        flags = {'--epochs': str(2 * args.epochs)}
        if args.stop_epoch:  # a file of --config may set it, which leaving the flag out does not undo
            flags['--stop-epoch'] = str(self.epochs + args.epochs)
        return flags

    def _resume(self, checkpoint: str, changed: Mapping[str, str]) -> str:
        folder, flags = self.saver.checkpoint_dir, {**changed, '--resume': checkpoint}
        if not self.args.experiment and os.path.dirname(checkpoint) == folder:
            flags['--experiment'] = os.path.basename(folder)  # history and summary go on, rather than begin elsewhere
        words = stock_first(self.parser).without(options.without_sweep(sys.argv[1:]), *RESUME_FLAGS, *changed)
        end = words.index('--') if '--' in words else len(words)
        words[end:end] = chain.from_iterable(flags.items())
        return ' '.join([*_launcher(), shlex.join(words)])


def _launcher() -> Iterator[str]:
    """What starts this script again the way it was started, as words of a shell."""
    environ = os.environ
    if 'TORCHELASTIC_RUN_ID' not in environ:
        yield shlex.join(['keepaug-train'] if _is_command() else ['python', os.path.normpath(sys.argv[0])])
        return
    if environ['GROUP_WORLD_SIZE'] != '1':
        yield from (
            f'PET_{name}={environ[source]}'
            for name, source in (
                ('NNODES', 'GROUP_WORLD_SIZE'),
                ('NODE_RANK', 'GROUP_RANK'),
                ('MASTER_ADDR', 'MASTER_ADDR'),
                ('MASTER_PORT', 'MASTER_PORT'),
            )
        )
    if _is_command():
        yield from ('torchrun', f'--nproc_per_node={environ["LOCAL_WORLD_SIZE"]}', '-m', 'keepaug.train')
        return
    script = _beside('distributed_train.sh')
    yield from (shlex.quote(script if os.path.dirname(script) else f'./{script}'), environ['LOCAL_WORLD_SIZE'])


def _is_command() -> bool:
    """Whether this is the installed script, or the command that pip made of a checkout's, and no file of a user's."""
    script = Path(sys.argv[0])
    return script.stem == 'keepaug-train' or script.parent == PACKAGE


def _beside(name: str) -> str:
    """The path of another script, beside the running one."""
    return os.path.join(os.path.dirname(os.path.normpath(sys.argv[0])), name)


def _spell(action: Action, value: Any) -> Sequence[str]:
    """A flag with its value, as they are typed."""
    flag = next(flag for flag in action.option_strings if flag.startswith('--'))
    if action.nargs == 0:
        return [flag]
    if isinstance(value, dict):
        return [flag, *(f'{name}={entry}' for name, entry in value.items())]
    return [flag, *map(str, value if isinstance(value, (list, tuple)) else [value])]
