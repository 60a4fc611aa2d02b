"""The benchmark of the cheap passes: it finds the early head of a checkpoint."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

from keepaug import EarlyExit
from tests.scripts import TINY, run_train

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


def test_the_early_head_is_loaded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(BENCHMARKS), *sys.path])
    load = runpy.run_path(str(BENCHMARKS / 'saliency_agreement.py'), run_name='agreement')['load']
    run = run_train(f'{data} {TINY} --epochs 1 --early-exit', tmp_path)
    model = load(
        SimpleNamespace(checkpoint=str(run / 'last.pth.tar'), model='test_resnet', num_classes=3, model_kwargs={})
    )
    assert isinstance(model, EarlyExit)
