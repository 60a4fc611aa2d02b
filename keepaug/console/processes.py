"""The processes of a run that a launcher such as torchrun started: whether there are several, and which one this is."""

import torch
from timm.utils import is_distributed_env, world_info_from_env


def is_distributed() -> bool:
    """Whether this process is one of a group, which it has joined."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_rank() -> int:
    """The number of this process; 0 where there is but one."""
    return torch.distributed.get_rank() if is_distributed() else 0


def process_count() -> int:
    """Processes that share the work; 1 unless a launcher started more."""
    return torch.distributed.get_world_size() if is_distributed() else 1


def is_first_process() -> bool:
    """Whether this is the process that tells what all of them do, before they have joined too."""
    if is_distributed():
        return process_rank() == 0
    return not is_distributed_env() or world_info_from_env()[1] == 0
