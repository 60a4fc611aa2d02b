"""Where a run computes: the device, the process group, the number formats."""

import importlib
import logging
import os

import torch
from timm.utils import NativeScaler, init_distributed_device, is_distributed_env, random_seed, world_info_from_env

from keepaug.training.forward import Forward

_logger = logging.getLogger('train')


def import_device_modules(args) -> None:
    """Imports what `--device-modules` names: packages that register further device types with torch.

    Raises:
        ValueError: A module is missing; `--check`, often of a job for another machine, only says so.
    """
    for name in args.device_modules or ():
        try:
            importlib.import_module(name)
        except ImportError as error:
            if vars(args).get('check'):
                _logger.info(f'--device-modules {name} cannot be imported here. The rest is checked.')
                continue
            raise ValueError(f'--device-modules {name} cannot be imported ({error}): install it or drop it.') from error


def use_fast_cuda_math() -> None:
    """TF32 products and autotuned convolutions, as the stock scripts set them wherever CUDA exists."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True


def open_device(args) -> torch.device:
    """Joins the process group if there is one and picks this process's device.

    Fills `device`, `rank`, `local_rank`, `world_size`, `distributed` in `args`.

    Raises:
        ValueError: The device does not exist here.
    """
    use_fast_cuda_math()
    _log_waiting()
    try:
        device = init_distributed_device(args)
    except (AssertionError, RuntimeError) as error:
        # A process group that cannot form is the launcher's story, not the device's.
        if is_distributed_env() and not isinstance(error, AssertionError):
            raise
        raise ValueError(f'--device {args.device} cannot be used here ({error}): name another, such as cpu.') from error
    if args.distributed:
        _logger.info(
            f'Training in distributed mode with multiple processes, 1 device per process. '
            f'Process {args.rank}, total {args.world_size}, device {args.device}.'
        )
    else:
        _logger.info(f'Training with a single process on 1 device ({args.device}).')
    return device


def _log_waiting() -> None:
    """Says for how many processes this one is about to wait, which in a shell of Slurm's may be for ever."""
    _, rank, count = world_info_from_env()
    if is_distributed_env() and rank == 0:
        told = 'WORLD_SIZE' if 'WORLD_SIZE' in os.environ else 'SLURM_NTASKS'
        way_out = '' if told == 'WORLD_SIZE' else f' Without srun it waits for ever: unset {told} first.'
        _logger.info(f'Waiting for {count} processes to meet, as {told}={count} says.{way_out}')


def build_forward(args, device: torch.device) -> Forward:
    """Forward passes in the number formats of `--amp`, `--amp-dtype` and `--model-dtype`.

    Raises:
        ValueError: Both `--amp` and a half precision `--model-dtype` are asked for.
    """
    dtype = getattr(torch, args.model_dtype) if args.model_dtype else torch.float32
    if dtype == torch.float16:
        _logger.warning('float16 is not recommended for training, for half precision bfloat16 is recommended.')
    if not args.amp:
        return Forward(device, dtype, channels_last=args.channels_last)
    if dtype != torch.float32:
        raise ValueError(
            f'--amp keeps weights in float32 and does not work with --model-dtype {args.model_dtype}: '
            'drop one of the two.'
        )
    return Forward(device, amp_dtype=getattr(torch, args.amp_dtype), channels_last=args.channels_last)


def build_scaler(forward: Forward) -> NativeScaler | None:
    """The loss scaler of training under float16 autocast on CUDA; else None."""
    # Only float16 underflows; bfloat16 has float32's range.
    if forward.device.type != 'cuda' or forward.amp_dtype != torch.float16:
        return None
    return NativeScaler(device=forward.device.type)


def seed_everything(args) -> None:
    """Seeds torch, numpy and random with seed + rank, once, as the stock script does."""
    random_seed(args.seed, args.rank)
