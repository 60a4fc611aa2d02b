"""The processes that share a validation."""

import logging
from typing import Any

import torch
from timm.utils import is_distributed_env

from keepaug.console.processes import process_count
from keepaug.training.device import open_device

_logger = logging.getLogger('validate')


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes one after the other, on the CPU; every process calls it and gets them."""
    if process_count() == 1:
        return rows.cpu()
    parts: list[Any] = [None] * process_count()
    torch.distributed.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)


def join_processes(args) -> None:
    """Joins the processes that a launcher such as torchrun started, each with a device of its own, if it did.

    Raises:
        ValueError: What is asked for needs all images in one process.
    """
    if not is_distributed_env():
        return
    whole = [
        flag
        for flag, asked in (
            ('--real-labels', args.real_labels),
            ('--naflex-loader', args.naflex_loader),
        )
        if asked
    ]
    if whole:
        raise ValueError(f'{whole[0]} needs all images in one process: drop it, or start one process.')
    if args.retry:
        raise ValueError(
            '--retry would start over only in the process that lacks memory: give a smaller --batch-size, or start '
            'one process.'
        )
    open_device(args)
    if args.rank:
        _logger.setLevel(logging.WARNING)  # what all do is said once
