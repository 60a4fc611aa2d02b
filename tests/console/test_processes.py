"""Which of several processes speaks for all of them."""

import pytest
import torch

from keepaug.console.processes import is_distributed, is_first_process, process_count, process_rank


@pytest.mark.parametrize(
    'environment, first',
    [
        ({}, True),
        ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, True),
        ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '2'}, False),
        ({'WORLD_SIZE': '2', 'RANK': '1'}, False),
    ],
)
def test_before_they_have_joined(environment, first, monkeypatch):
    for name in ('WORLD_SIZE', 'RANK', 'SLURM_NTASKS', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
    assert not is_distributed() and (process_rank(), process_count()) == (0, 1)


def test_where_torch_has_no_process_groups(monkeypatch):
    monkeypatch.setattr(torch.distributed, 'is_available', lambda: False)
    monkeypatch.delattr(torch.distributed, 'is_initialized')
    assert is_first_process() and (process_rank(), process_count()) == (0, 1)
