"""A run as `--check` tries it: with what is at hand on this machine, in one process, on the CPU."""

import argparse
import logging
import math
from collections.abc import Sized

import torch
from timm.data.distributed_sampler import RepeatAugSampler
from timm.utils import is_distributed_env, world_info_from_env

from keepaug.data.checks import STREAMS
from keepaug.methods.registry import active_methods
from keepaug.models.names import FOLDER, HUB, model_source
from keepaug.training.model import find_pretrained_file
from keepaug.training.schedule import needs_cuda

_logger = logging.getLogger('train')


def to_be_fetched(args: argparse.Namespace) -> str:
    """What may have to be fetched before a run can be built, as the beginning of a sentence; empty for nothing."""
    if args.dataset_download:
        return '--dataset-download may have to fetch the data'
    if args.dataset.lower().startswith((*STREAMS, 'hfds/')):
        return f'--dataset {args.dataset} may have to be fetched'
    if model_source(args.model)[0] == HUB:  # it is described there, and so cannot be built without it
        return f'--model {args.model} may have to be fetched'
    return ''


def rehearsed(args: argparse.Namespace) -> argparse.Namespace:
    """A copy of prepared options that waits for no other process, starts none and fetches no weights.

    It counts as many processes as the environment tells, for what the learning rate and the share of each follow from.
    """
    tried = argparse.Namespace(**vars(args))
    tried.rank, tried.local_rank, tried.distributed, tried.workers = 0, 0, False, 0
    tried.world_size = world_info_from_env()[2] if is_distributed_env() else 1
    if tried.world_size > 1:
        tried.aug_repeats = 0  # which one process alone refuses
        tried.exact_resume = tried.exact_resume and not args.aug_repeats
    left_out = []
    if needs_cuda(tried) and not torch.cuda.is_available():
        left_out.append(f'--opt {tried.opt}')
        # The rule for the learning rate goes by the name; what else is given may be the other's alone.
        tried.opt = 'adamw' if any(part in tried.opt.lower() for part in ('ada', 'lamb')) else 'sgd'
        tried.opt_betas, tried.opt_kwargs = None, {}
        tried.no_resume_opt, tried.exact_resume = True, False
    if tried.pretrained and not find_pretrained_file(tried) and model_source(tried.model)[0] != FOLDER:
        left_out.append(f'the weights of --model {tried.model}')
        tried.pretrained = False
    teacher = tried.kd_model_name
    if teacher and not tried.kd_pretrained_path and model_source(teacher)[0] != FOLDER:
        left_out.append(f'--kd-model-name {tried.kd_model_name}')
        tried.kd_model_name = None
    for method in active_methods(tried):
        if method.switch is not None and method.fetches_weights(tried):
            left_out.append(method.spelled(tried))
            setattr(tried, method.switch.dest, method.switch.unset)
    if left_out:
        _logger.info(f'What may not be at hand is left out of the check: {", ".join(left_out)}.')
    if not is_distributed_env():
        _logger.info('The check counts one process. For more, set WORLD_SIZE to their number.')
    return tried


def check_share(args: argparse.Namespace, samples: Sized, repeats: float = 0) -> None:
    """Says that the share of the training set that each process gets is less than a batch.

    Args:
        args: What `rehearsed` gave.
        samples: The training set.
        repeats: Draws of each image per epoch, in different processes; 0 for no repeats.

    Raises:
        ValueError: It is.
    """
    if args.naflex_loader:  # its batches are counted in patches
        return
    share = math.ceil(len(samples) / args.world_size)
    if repeats:  # the sampler rounds
        share = len(RepeatAugSampler(samples, args.world_size, rank=0, num_repeats=repeats))
    if args.world_size > 1 and not args.train_img_sizes and share < args.batch_size:
        raise ValueError(
            f'The training set gives each of {args.world_size} processes {share} images, fewer than one batch: lower '
            f'--batch-size {args.batch_size}, start fewer processes or add images.'
        )
