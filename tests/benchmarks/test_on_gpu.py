"""The report for a GPU: every line of it runs on a CPU, and its crops lie where they say."""

import json
import sys
from pathlib import Path

import pytest
import torch

from keepaug.functional.saliency_maps import Places

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import on_gpu

    return on_gpu


def test_report(on_gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(on_gpu, 'TINY_PRICED', on_gpu.TINY_PRICED[:1])
    monkeypatch.setattr(sys, 'argv', ['on_gpu.py', '--device', 'cpu', '--tiny', '--output', str(tmp_path / 'out.json')])
    on_gpu.main()
    record = json.loads((tmp_path / 'out.json').read_text())
    row = record['prices']['test_resnet']
    assert set(row) == {'full', 'low', 'early', 'low-early', 'recycled', 'regions'} and row['full']['median'] > 0
    assert set(record['accuracy']) == set(on_gpu.ARMS) and all(len(seeds) == 1 for seeds in record['accuracy'].values())
    said = capsys.readouterr().out
    assert 'keep-cut recycled' in said and 'on the blind window' in said and '(random images)' in said


def test_time_that_is_over(on_gpu, monkeypatch, capsys):
    """What does not fit is said, and no run is begun."""
    monkeypatch.setattr(sys, 'argv', ['on_gpu.py', '--device', 'cpu', '--tiny', '--minutes', '0'])
    monkeypatch.setattr(on_gpu, 'run_arm', lambda *args: pytest.fail('no time is left'))
    on_gpu.main()
    said = capsys.readouterr().out
    assert 'not priced, the time is over' in said and 'not run, the time is over' in said


def test_crops_lie_where_they_say(on_gpu):
    images = torch.rand(200, 3, 32, 32)
    torch.manual_seed(0)
    crops, place = on_gpu.crop_and_flip(images)
    places = Places.from_rows(torch.cat([torch.arange(200)[:, None], place], 1))
    padded = torch.nn.functional.pad(images, (4,) * 4)
    for crop, image, (x0, y0, x1, y1), (horizontal, vertical) in zip(
        crops, padded, places.box.tolist(), places.flipped.tolist()
    ):
        wanted = image[:, y0 + 4 : y1 + 4, x0 + 4 : x1 + 4]
        assert torch.equal(crop, wanted.flip(2) if horizontal else wanted) and not vertical
    assert len(places.box.unique(dim=0)) > 60 and 60 < int(places.flipped[:, 0].sum()) < 140
    assert (places.size == 32).all()
