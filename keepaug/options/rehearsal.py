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


def not_at_hand(args: argparse.Namespace) -> str:
    """Why a run cannot be built before it starts, as the beginning of a sentence; empty where it can."""
    name = args.dataset.lower()
    return next(
        (
            reason
            for is_away, reason in (
                (args.dataset_download, '--dataset-download may have to fetch the data'),
                (name.startswith((*STREAMS, 'hfds/')), f'--dataset {args.dataset} may have to be fetched'),
                (args.model.startswith(OF_HUB), f'--model {args.model} may have to be fetched'),
            )
            if is_away
        ),
        '',
    )


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
