"""What torch cannot do with the device and the number formats that the flags name, in rows as of `stock_checks`."""

import argparse
import logging
import os
from collections.abc import Iterable

import torch

from keepaug.methods.method import Refusal

_logger = logging.getLogger('train')


def device_rows(args: argparse.Namespace) -> Iterable[Refusal]:
    device = args.device
    if args.device_modules:
        return  # the device may be theirs, which only opening it tells
    if device == 'cuda':  # each process asks for its own, and opens no other
        device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
    try:
        kind = torch.device(device).type
    except RuntimeError:
        yield (
            True,
            f'--device {args.device} is unknown to torch: say cuda or cpu, or name its package with --device-modules.',
        )
        return
    try:
        torch.ones(1, device=device).item()  # on meta there are tensors, but no numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        if vars(args).get('check') and kind != 'meta':  # often of a job for another machine
            _logger.info(f'--device {args.device} is not available to torch here. The rest is checked.')
            return
        yield True, f'--device {args.device} is not available to torch here: say --device cpu.'


def format_rows(args: argparse.Namespace) -> Iterable[Refusal]:
    return [
        (
            args.amp_dtype not in ('float16', 'bfloat16'),
            f'--amp-dtype {args.amp_dtype} is unknown: choose float16 or bfloat16.',
        ),
        (
            args.model_dtype not in (None, 'float32', 'float16', 'bfloat16'),
            f'--model-dtype {args.model_dtype} is unknown: choose float32, float16 or bfloat16.',
        ),
        (
            args.amp and args.model_dtype not in (None, 'float32'),
            f'--model-dtype {args.model_dtype} leaves --amp nothing to do: drop one of the two.',
        ),
    ]
