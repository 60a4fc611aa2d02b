"""The Slurm script, with stand-ins for Slurm's commands and for Python."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

# Slurm's commands note what they are asked. srun runs its task here, on the first of two nodes.
STUBS = {
    'srun': 'export SLURM_NODEID=0; while [[ $1 == --* ]]; do shift; done; exec "$@"',
    'scontrol': '[[ $1 == show ]] && printf "node7\\nnode8\\n"; echo "$@" >> "$NOTES/scontrol"; true',
    'python': '''[[ " $* " == *" --check "* ]] && exit 0
echo "$@" > "$NOTES/flags"; env | grep ^PET_ > "$NOTES/environment"
trap 'echo saved > "$NOTES/saved"; exit 143' TERM
touch "$NOTES/training"
for ((i = 0; i < ${STEPS:-0}; i++)); do sleep 0.05; done
exit "${STATUS:-0}"''',
}


@pytest.fixture
def submit(tmp_path):
    """Starts the script as Slurm would, with the stand-ins first in the path."""
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
        (tmp_path / name).chmod(0o755)
    started = []

    def start(*flags, python=tmp_path / 'python', **environment):
        process = subprocess.Popen(
            [ROOT / 'examples' / 'slurm_requeue.sh', *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                'PATH': f'{tmp_path}:{os.environ["PATH"]}',
                'NOTES': str(tmp_path),
                'PYTHON': str(python),
                'SLURM_SUBMIT_DIR': str(ROOT),
                'SLURM_JOB_ID': '4321',
                'SLURM_JOB_NUM_NODES': '2',
                'SLURM_JOB_NODELIST': 'node[7-8]',
                'SLURM_GPUS_ON_NODE': '4',
                'OMP_NUM_THREADS': '1',
                **environment,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def await_file(path, process, seconds=20.0):
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    assert path.exists()


def requeued(tmp_path):
    return 'requeue 4321' in (tmp_path / 'scontrol').read_text()


def test_what_is_started(submit, tmp_path):
    """Twice the same command: a requeued job finds its run."""
    for _ in range(2):
        process = submit('/data/imagenet', '--model', 'resnet50', '--keep-cut')
        assert process.wait(20) == 0
        flags = (tmp_path / 'flags').read_text()
        assert '--nproc_per_node=4' in flags
        assert flags.strip().endswith(
            '--output runs --experiment slurm-4321 --exact-resume --resume auto /data/imagenet '
            '--model resnet50 --keep-cut'
        )
        environment = (tmp_path / 'environment').read_text().split()
        assert {'PET_NNODES=2', 'PET_NODE_RANK=0', 'PET_MASTER_ADDR=node7', 'PET_MASTER_PORT=24321'} <= set(environment)
    assert not requeued(tmp_path)


@pytest.mark.parametrize('name', ['SIGUSR1', 'SIGTERM'])
def test_a_signal_stops_the_training_and_requeues_the_job(name, submit, tmp_path):
    process = submit('/data', STEPS='400')
    await_file(tmp_path / 'training', process)
    process.send_signal(getattr(signal, name))
    assert process.wait(20) == 143
    assert (tmp_path / 'saved').exists() and requeued(tmp_path)


def test_a_run_that_ends_by_itself_is_not_requeued(submit, tmp_path):
    assert submit('/data', STATUS='2').wait(20) == 2
    assert not requeued(tmp_path)


@pytest.mark.slow
def test_a_requeued_run_ends_with_the_weights_of_an_uninterrupted_one(submit, tmp_path):
    flags = (
        '--dataset keepaug/cluttered-digits --train-num-samples 320 --val-num-samples 40 --model test_resnet '
        '--num-classes 10 --img-size 40 -b 16 --epochs 4 --lr 0.05 --keep-cut --device cpu -j 0'
    ).split()
    whole, requeued_run = tmp_path / 'whole', tmp_path / 'requeued'
    environment = dict(SLURM_JOB_NUM_NODES='1', SLURM_GPUS_ON_NODE='1', python=sys.executable, PYTHONPATH=str(ROOT))
    (tmp_path / 'scontrol').write_text('#!/usr/bin/env bash\n[[ $1 == show ]] && echo localhost; true\n')
    assert submit(*flags, '--output', str(whole), **environment).wait(300) == 0
    process = submit(*flags, '--output', str(requeued_run), **environment)
    await_file(requeued_run / 'slurm-4321' / 'last.pth.tar', process, 200)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(100) != 0
    assert submit(*flags, '--output', str(requeued_run), **environment).wait(300) == 0
    first, second = (
        torch.load(folder / 'slurm-4321' / 'last.pth.tar', weights_only=False) for folder in (whole, requeued_run)
    )
    assert first['epoch'] == second['epoch'] == 3
    for name, tensor in first['state_dict'].items():
        assert torch.equal(tensor, second['state_dict'][name])
