"""How long a study takes at full scale."""

from pathlib import Path

import pytest

from keepaug.study.command import scaled_title
from keepaug.study.forecast import forecast, seconds_per_epoch
from keepaug.study.plan import plan_runs
from keepaug.study.study import read_study

ROOT = Path(__file__).parents[2]


def test_what_a_run_needs_to_start_is_no_epoch():
    assert seconds_per_epoch({0: 30.0, 1: 32.0, 2: 34.0}) == 2.0
    assert seconds_per_epoch({0: 30.0}) is None


@pytest.mark.parametrize('scale', [1.0, 0.1])
def test_full_scale_from_any_other(scale, tmp_path):
    """At a tenth of epochs and images an epoch takes a tenth of the time; the arm that was not measured is the mean."""
    path = tmp_path / 'trial.yaml'
    flags = '--dataset keepaug/cluttered-digits --train-num-samples 1000 --epochs 50 --model test_resnet'
    path.write_text(f'title: x\nseeds: 4\nflags: {flags}\narms: {{a: {{}}, b: {{}}, c: {{}}}}\n')
    study = read_study(str(path))
    runs = plan_runs(study, tmp_path, 1, scale=scale)
    assert forecast(study, runs, 2) == ''
    for run, seconds in zip(runs, (20, 40)):
        run.folder.mkdir(parents=True)
        lines = (f'{epoch},{100 + epoch * seconds * scale}\n' for epoch in range(3))
        (run.folder / 'clock.csv').write_text(''.join(lines))
    said = forecast(study, runs, 2)
    # (20 + 40 + 30) * 50 epochs * 4 seeds / 2 slots = 9,000 s; 30 * 50 = 1,500 s each.
    assert all(part in said for part in ('the 12 runs', '2:30:00', '2 at a time', '0:25:00 each', '2 of 3 arms'))


@pytest.mark.parametrize(
    'file, flags, scaled',
    [
        ('studies/digits', (), 'epochs and data at 0.1'),
        ('papers/keepaugment/table1', ('--data-dir', '/data'), '(epochs at 0.1'),
    ],
)
def test_the_title_says_what_was_scaled(file, flags, scaled, tmp_path):
    study = read_study(str(ROOT / 'hparams' / f'{file}.yaml'))
    runs = plan_runs(study, tmp_path, 1, [study.arms[0].name], 0.1, flags)
    assert scaled in scaled_title(study, runs, 0.1) and scaled_title(study, runs, 1.0) == study.heading
