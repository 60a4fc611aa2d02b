"""Xavier initialisation (Glorot and Bengio, 2010), with which Attentive CutMix trains its networks: `--weight-init`."""

import argparse
import logging
from collections.abc import Iterator

from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import nn

from keepaug.console.processes import is_first_process
from keepaug.methods.method import Flag, Method, Need, Refusal

_logger = logging.getLogger('train')

INITIALIZERS = {'xavier-normal': nn.init.xavier_normal_, 'xavier-uniform': nn.init.xavier_uniform_}
WEIGHED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class InitializationMethod(Method):
    """Draws the weights of convolutions and linear layers anew, and sets their biases to zero."""

    name = 'initialization'
    title = 'initial weights'
    switch = Flag(
        '--weight-init',
        type=str,
        choices=tuple(INITIALIZERS),
        help='how to draw the weights of convolutions and linear layers, with zero biases; unset: as timm does',
    )
    needs = Need.OPEN_MODEL
    on_batches = False
    example = '--weight-init xavier-normal'

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        for flag, given in (('--pretrained', args.pretrained), ('--initial-checkpoint', args.initial_checkpoint)):
            yield bool(given), (f'{self.spelled(args)} would undo the weights of {flag}: drop one of the two.')

    def wrap_task(self, task: TrainingTask, args: argparse.Namespace) -> TrainingTask:
        initialize = INITIALIZERS[args.weight_init]
        count = 0
        for module in unwrap_model(task.get_trainable_module()).modules():
            if isinstance(module, WEIGHED):
                initialize(module.weight)
                count += 1
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if is_first_process():
            _logger.info(f'The weights of {count} layers are drawn by {args.weight_init}.')
        return task
