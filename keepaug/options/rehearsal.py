"""A run as `--check` tries it: with what is at hand on this machine, in one process, on the CPU."""

import argparse
import logging

from keepaug.data.checks import STREAMS
from keepaug.methods.registry import active_methods
from keepaug.models.described import LOCAL
from keepaug.training.model import find_pretrained_file

_logger = logging.getLogger('train')

# A model of the Hub is described there, and so cannot be built without it.
OF_HUB = ('hf-hub:', 'hf_hub:')


def to_be_fetched(args: argparse.Namespace) -> str:
    """What may have to be fetched before a run can be built, as the beginning of a sentence; empty for nothing."""
    if args.dataset_download:
        return '--dataset-download may have to fetch the data'
    if args.dataset.lower().startswith((*STREAMS, 'hfds/')):
        return f'--dataset {args.dataset} may have to be fetched'
    if args.model.startswith(OF_HUB):
        return f'--model {args.model} may have to be fetched'
    return ''


def rehearsed(args: argparse.Namespace) -> argparse.Namespace:
    """A copy of prepared options that waits for no other process, starts none and fetches no weights."""
    tried = argparse.Namespace(**vars(args))
    tried.rank, tried.local_rank, tried.world_size, tried.distributed, tried.workers = 0, 0, 1, False, 0
    left_out = []
    if tried.pretrained and not find_pretrained_file(tried) and not tried.model.startswith(LOCAL):
        left_out.append(f'the weights of --model {tried.model}')
        tried.pretrained = False
    if tried.kd_model_name and not tried.kd_pretrained_path and not tried.kd_model_name.startswith(LOCAL):
        left_out.append(f'--kd-model-name {tried.kd_model_name}')
        tried.kd_model_name = None
    for method in active_methods(tried):
        if method.switch is not None and method.fetches_weights(tried):
            left_out.append(method.spelled(tried))
            setattr(tried, method.switch.dest, method.switch.unset)
    if left_out:
        _logger.info(f'What may have to be fetched is left out of the check: {", ".join(left_out)}.')
    return tried
