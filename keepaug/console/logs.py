"""What goes into the log: one process's words, and not what other packages have to tell."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from timm.utils import is_distributed_env, world_info_from_env


@contextmanager
def muted(module: ModuleType) -> Iterator[None]:
    """Keeps what a module has to tell out of the log, warnings excepted."""
    logger = logging.getLogger(module.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_first_process() -> bool:
    """Whether this is the process that tells what all of them do, before they have joined too."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return not is_distributed_env() or world_info_from_env()[1] == 0
