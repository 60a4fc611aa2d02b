"""The whole command: what it trains, reports, lists, and goes on with after it was stopped."""

import csv
import math
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from matplotlib import pyplot

from keepaug.study import command, report
from keepaug.study.report import notes, write_report
from keepaug.study.results import collect
from keepaug.study.runs import Slot, StudyRun
from keepaug.study.scale import DataShare
from keepaug.study.study import Arm, Study
from tests.browser import DESK, PHONE, find_faults

ROOT = Path(__file__).parents[2]
STUDY = """
title: A trial
seeds: 1
flags: --model test_resnet --num-classes 3 --img-size 32 -b 8 --epochs {epochs} --warmup-epochs 0 --lr 0.05 -j 0
arms:
  none: {{paper: 50}}
  Cutout: {{flags: --cutout 8, paper: 60.5, row: 70.1 with more epochs}}
  broken: {{flags: --initial-checkpoint {broken}}}
compare: [[Cutout, none]]
"""

pytestmark = pytest.mark.xdist_group('study')


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(command, 'setup_default_logging', lambda: None)
    (tmp_path / 'broken.pth').write_bytes(b'no checkpoint')
    path = tmp_path / 'trial.yaml'
    path.write_text(STUDY.format(epochs=1, broken=tmp_path / 'broken.pth'))
    return path


def rows(folder):
    with open(folder / 'results.csv', newline='') as file:
        return {row['arm']: row for row in csv.DictReader(file)}


def test_runs_and_reports(study, data, tmp_path, capsys):
    """A run that fails is reported, and the others are carried out."""
    out = tmp_path / 'out'
    words = [str(study), '--output', str(out), '--slots', 'cpu:1', 'cpu:1', '--', '--data-dir', str(data)]
    with pytest.raises(ValueError, match='1 of 3 runs failed .*broken-0'):
        command.main(words)
    found = rows(out)
    assert [found[arm]['status'] for arm in ('none', 'Cutout', 'broken')] == ['done', 'done', 'failed']
    assert 'broken.pth' in found['broken']['reason'] and float(found['none']['last']) >= 0
    assert float(found['none']['seconds']) > 0
    table = (out / 'table.md').read_text()
    assert re.search(r'\| none \| 50.00 \| [\d.]+ \(n = 1\)', table) and '| Cutout - none | +10.50 |' in table
    assert 'In the paper: Cutout: 70.1 with more epochs.' in table
    assert 'failed: ' in table and table in capsys.readouterr().out
    page = (out / 'report.html').read_text()
    assert 'src="data:image/png;base64,' in page and not re.search(r'(src|href)="(?!data:)', page)
    assert (out / 'table.png').stat().st_size > 1000

    # What is done is not done again; --collect reads it, --list prints a command for each.
    before = {path: path.stat().st_mtime_ns for path in out.glob('runs/*-0/last.pth.tar')}
    command.main([*words[:3], '--collect', *words[-3:]])
    command.main([*words[:3], '--only', 'Cutout:0', *words[-3:]])
    assert before == {path: path.stat().st_mtime_ns for path in before} and len(before) == 2
    capsys.readouterr()
    command.main([*words[:3], '--list', *words[-3:]])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 3 and shlex.split(listed[1])[-4:] == ['Cutout:0', '--', '--data-dir', str(data)]


def test_to_list_makes_nothing(study, data, tmp_path, capsys):
    """Nor does a share of the data, whose folder of links each run makes before it starts."""
    out = tmp_path / 'out'
    command.main([str(study), '--output', str(out), '--scale', '0.5', '--list', '--', '--data-dir', str(data)])
    assert '--scale 0.5' in capsys.readouterr().out and not out.exists()
    run = StudyRun(Arm('none'), 0, (), out / 'runs' / 'none-0', True, {}, DataShare(str(data), out / 'share', 0.5))
    run.make_data()
    assert sorted(path.name for path in (out / 'share').glob('*/')) == ['train', 'val']


def test_a_recipe_may_stand_behind_the_dashes(study, data, tmp_path, capsys):
    flags = ['-c', 'cifar10/keepcutout', '--data-dir', str(data)]
    command.main([str(study), '--output', str(tmp_path / 'out'), '--arms', 'none', '--list', '--', *flags])
    assert shlex.split(capsys.readouterr().out.splitlines()[0])[-5:] == ['--', *flags]


def test_a_report_that_fails_ends_no_study(run, monkeypatch, caplog):
    class Reporter:
        written = 0

        def write(self):
            Reporter.written += 1
            raise RuntimeError('no fonts')

        def show(self):
            pass

    monkeypatch.setattr(StudyRun, 'carry_out', lambda *_: True)
    monkeypatch.setattr(StudyRun, 'done', False)
    with pytest.raises(ValueError, match='runs failed'):  # for none has left an outcome
        command.Scheduler([run, run], [Slot.read('cpu:1')], Reporter()).run()
    assert Reporter.written == 2 and caplog.text.count('could not be written (no fonts)') == 2


@pytest.mark.slow
@pytest.mark.parametrize('width', [PHONE, DESK])
def test_report_in_a_browser(width, run, tmp_path):
    """Chromium shows the page without an error, no wider than the screen, and both pictures are drawn."""
    run.folder.mkdir(parents=True)
    (run.folder / 'outcome.json').write_text('{"status": "done", "seconds": 9}')
    (run.folder / 'summary.csv').write_text('epoch,train_loss,eval_loss,eval_top1\n0,2,2,50\n1,1,1,60\n')
    study = Study(tmp_path / 'x.yaml', 'A title with <signs> & $more', (run.arm,))
    write_report(study, [run], tmp_path, study.title, 'a machine')
    assert (tmp_path / 'report.html').read_text().count('<img ') == 2
    assert find_faults(tmp_path, ['report.html'], width, tmp_path) == {}


@pytest.mark.parametrize(
    'words, named',
    [
        (['--slurm', 'timeout_min', '--cluster', 'local'], '--slurm timeout_min .*KEY=VALUE'),
        (['--slurm=no_such=1', '--cluster', 'local'], '--slurm no_such=1 .*KEY=VALUE'),
        (['--output', __file__], '--output .*cannot be written'),
        (['--collect'], '--collect finds no run .*out: name the folder'),
        (['--only', 'none:7'], '--only none:7 .*--list'),
        (['--lr', '0.1'], '--lr is a flag of training: write it behind --'),
        (['--slots', 'cuda:77'], '--slots cuda:77 is not there'),
        (['--cluster', 'local'], '--cluster local has no effect without --slurm'),
        (['--arms', 'cutout'], "--arms 'cutout' .*'none', 'Cutout' or 'broken'"),
    ],
)
def test_what_cannot_be(words, named, study, data, tmp_path):
    if '--slurm' in named:
        pytest.importorskip('submitit', reason='comes with the extra study')
    with pytest.raises(ValueError, match=named):
        command.main([str(study), '--output', str(tmp_path / 'out'), *words, '--', '--data-dir', str(data)])
    assert '--slurm' in named or not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'flags, named',
    [
        (['--slots', 'cpu:2'], '--slots is a flag of the study: write it before --'),
        (['--seed', '3'], '--seed .* --seeds N before --'),
        (['--outp', 'x'], '--output .* --output DIR before --'),
        (['--device=cuda'], '--device .* --slots before --'),
        (['--data-dir', '/absent'], 'The data folder /absent does not exist'),
    ],
)
def test_what_cannot_be_said_of_every_run(flags, named, study, tmp_path):
    with pytest.raises(ValueError, match=named):
        command.main([str(study), '--output', str(tmp_path / 'out'), '--', *flags])
    assert not (tmp_path / 'out').exists()


ARMS = (Arm('none'), Arm('Cutout'))


@pytest.fixture
def run(tmp_path):
    return StudyRun(Arm('none'), 0, (), tmp_path / 'out' / 'runs' / 'none-0', True, {})


def test_a_run_stands_where_the_command_does(run, tmp_path, monkeypatch):
    """Relative folders of data and output lead to the same place for both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StudyRun, 'command', lambda *_: [sys.executable, '-c', 'open("here", "w")'])
    assert run.carry_out(Slot.read('cpu:1'), threading.Event()) and (tmp_path / 'here').exists()


def test_a_metric_that_no_epoch_has_is_said(run, tmp_path):
    run.folder.mkdir(parents=True)
    (run.folder / 'outcome.json').write_text('{"status": "done"}')
    (run.folder / 'summary.csv').write_text('epoch,eval_top1\n0,50\n')
    for metric, said in (('eval_top1', False), ('eval_map', True)):
        found = collect(Study(tmp_path / 'x.yaml', 'x', (run.arm,), metric=metric), [run])
        assert ('none, seed 0: its summary.csv has no values for eval_map' in notes(found, '')) is said


def test_an_arm_is_called_in_the_pictures_as_it_is(tmp_path, monkeypatch):
    """An arm without the study's metric, too, whose losses are drawn."""
    figures = []
    monkeypatch.setattr(report, '_png', lambda figure: figures.append(figure) or b'')
    arms = Arm('_x', paper=1.0), Arm('$y$', paper=2.0)
    runs = [StudyRun(arm, 0, (), tmp_path / arm.folder, True, {}) for arm in arms]
    for run, column in zip(runs, ('eval_top1', 'eval_loss')):
        run.folder.mkdir()
        (run.folder / 'summary.csv').write_text(f'epoch,{column}\n0,50\n')
    study = Study(tmp_path / 'x.yaml', 'x', arms)
    report.draw_table(collect(study, runs))
    report.draw_curves(study, runs)
    table, curves = figures
    texts = [*table.axes[0].get_yticklabels(), *curves.legends[0].get_texts()]
    assert [text.get_text() for text in texts] == ['$y$', '_x', '_x', '$y$']
    assert not any(text.get_parse_math() for text in texts)
    pyplot.close('all')


@pytest.mark.parametrize('metric, best', [('risk_augmented', 1.0), ('risk_clean', 0.5), ('saliency_kept', 0.9)])
def test_the_best_epoch_is_that_of_the_metric(metric, best, run, tmp_path):
    run.folder.mkdir(parents=True)
    (run.folder / 'outcome.json').write_text('{"status": "done"}')
    summary = 'epoch,eval_loss,risk_augmented,risk_clean,saliency_kept\n0,1,2,0.5,0.9\n1,1,1,0.6,0.8\n'
    (run.folder / 'summary.csv').write_text(summary)
    (row,) = collect(Study(tmp_path / 'x.yaml', 'x', (run.arm,), metric=metric, statistic='best'), [run]).rows
    assert row['best'] == best


def test_a_run_that_diverged_spoils_no_report(tmp_path):
    """It is said, and its arm has no mean."""
    runs = [StudyRun(arm, seed, (), tmp_path / f'{arm.name}-{seed}', True, {}) for arm in ARMS for seed in range(2)]
    for run, last in zip(runs, ('inf', '0.5', '0.25', 'nan')):
        run.folder.mkdir()
        (run.folder / 'outcome.json').write_text('{"status": "done", "seconds": 9}')
        (run.folder / 'clock.csv').write_text('0,5\n1,9\n')
        (run.folder / 'summary.csv').write_text(f'epoch,train_loss,eval_loss\n0,1,0.75\n1,1,{last}\n')
    study = Study(tmp_path / 'x.yaml', 'x', ARMS, compare=(('Cutout', 'none'),), metric='eval_loss')
    lines = {line.name: line for line in write_report(study, runs, tmp_path, 'x', 'a machine').lines}
    assert [lines[arm.name].spreads['best'].mean for arm in ARMS] == [0.625, 0.5]
    assert all(math.isnan(lines[arm.name].spreads['last'].mean) for arm in ARMS)
    said = (tmp_path / 'table.md').read_text()
    for run in ('none, seed 0', 'Cutout, seed 1'):
        assert f'{run}: 1 of its 2 values of eval_loss are no numbers' in said


def test_an_error_in_a_slot_ends_the_command(run, monkeypatch):
    def fail(*_):
        raise OSError('no room')

    monkeypatch.setattr(StudyRun, 'carry_out', fail)
    with pytest.raises(OSError, match='no room'):
        command.Scheduler([run], [Slot.read('cpu:1')] * 2, reporter=None).run()


@pytest.mark.slow
def test_goes_on_after_it_was_stopped(study, data, tmp_path):
    """Stopped in the middle and started again, it trains no epoch twice."""
    study.write_text(STUDY.format(epochs=40, broken='').partition('  broken')[0] + 'compare: [[Cutout, none]]\n')
    words = [
        sys.executable,
        '-m',
        'keepaug.study',
        str(study),
        '--output',
        str(tmp_path / 'out'),
        '--',
        '--data-dir',
        str(data),
    ]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    summary = tmp_path / 'out' / 'runs' / 'none-0' / 'summary.csv'
    while not summary.exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert not list(tmp_path.glob('out/runs/*/outcome.json'))
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    with open(summary, newline='') as file:
        assert [int(row['epoch']) for row in csv.DictReader(file)] == list(range(40))
    log = (summary.parent / 'run.log').read_text()
    assert len(re.findall(r'Train: 0 ', log)) < len(re.findall(r'Train: 39 ', log)) + 3
    assert {row['status'] for row in rows(tmp_path / 'out').values()} == {'done'}


@pytest.mark.slow
def test_submits(study, data, tmp_path):
    """Through submitit's executor for this machine, which runs jobs as Slurm's does."""
    pytest.importorskip('submitit', reason='comes with the extra study')
    out = tmp_path / 'out'
    command.main(
        [
            str(study),
            '--output',
            str(out),
            '--arms',
            'none',
            'Cutout',
            '--slurm',
            'timeout_min=5',
            '--cluster',
            'local',
            '--',
            '--data-dir',
            str(data),
        ]
    )
    command.main(
        [str(study), '--output', str(out), '--arms', 'none', 'Cutout', '--collect', '--', '--data-dir', str(data)]
    )
    assert {row['status'] for row in rows(out).values()} == {'done'}
