"""Where a run computes, and for whom it waits there."""

import argparse

import pytest
import torch

from keepaug.training import device


@pytest.mark.parametrize(
    'environment, said',
    [
        ({}, []),
        ({'SLURM_NTASKS': '1'}, []),
        ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, ['Waiting for 4 processes', 'SLURM_NTASKS=4', 'srun', 'unset']),
        ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '2'}, []),
        ({'WORLD_SIZE': '2', 'RANK': '0', 'SLURM_NTASKS': '4'}, ['Waiting for 2 processes', 'WORLD_SIZE=2']),
    ],
)
def test_says_for_how_many_processes_it_waits(environment, said, monkeypatch, caplog):
    for name in ('WORLD_SIZE', 'RANK', 'SLURM_NTASKS', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    met = []

    def meet(args):
        met.append([record.getMessage() for record in caplog.records])  # what stands there while it waits
        args.distributed, args.rank, args.world_size = False, 0, 1
        return torch.device('cpu')

    monkeypatch.setattr(device, 'init_distributed_device', meet)
    with caplog.at_level('INFO'):
        device.open_device(argparse.Namespace(device='cpu'))
    waiting = [line for line in met[0] if line.startswith('Waiting')]
    assert len(waiting) == bool(said) and all(part in line for line in waiting for part in said)
