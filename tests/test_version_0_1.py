"""What version 0.1.0 wrote still works: its checkpoints resume, validate, export; its args.yaml is a configuration."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from keepaug.export.command import main as export
from tests.scripts import run_train, run_validate

# Runs of version 0.1.0 on the images of the tests, stopped after the first of two epochs: `args.yaml` has all flags.
WRITTEN = Path(__file__).parent / 'fixtures' / 'v0_1_0'
RUNS = ('exact', 'plain')


@pytest.fixture(params=RUNS)
def run(request, data, tmp_path, monkeypatch):
    """The folder of such a run; its images lie beside it, where its flags say."""
    (tmp_path / 'images').symlink_to(data)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(WRITTEN / request.param, tmp_path / 'out' / request.param))


def test_resumes(run, tmp_path):
    flags = f'--config {run}/args.yaml --stop-epoch 2 --resume {run}/last.pth.tar'
    run_train(flags, tmp_path / 'out', run.name)
    state = torch.load(run / 'last.pth.tar', weights_only=False)
    assert state['epoch'] == 1 and all(weight.isfinite().all() for weight in state['state_dict'].values())
    with open(run / 'summary.csv') as file:
        assert [row['epoch'] for row in csv.DictReader(file)] == ['0', '1']


def test_validates(run, data, capsys):
    model = '--use-train-size --model resnet10t --num-classes 3 --img-size 32 '
    model += '--model-kwargs channels=(8,8,8,8) stem_width=4'
    found = run_validate(f'{data} {model} --checkpoint {run}/last.pth.tar --device cpu -j 0 --evaluate risk', capsys)
    with open(run / 'summary.csv') as file:
        row = next(csv.DictReader(file))
    if run.name == 'plain':  # the other one's row is that of the average
        assert found['top1'] == pytest.approx(float(row['eval_top1']), abs=0.01)
    assert found['risk_augmented'] > 0


def test_exports(run, tmp_path):
    export(['timm', str(run / 'last.pth.tar'), '--output', str(tmp_path / 'exported')])
    assert (tmp_path / 'exported' / 'config.json').exists()
