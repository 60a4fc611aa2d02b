"""The time of a run's epochs: what passed, and what processors worked."""

import json
import os
import subprocess
import sys

import pytest

from keepaug.study import clock as clocks
from keepaug.study.clock import PROCESSOR, WALL, Clock, processor_seconds, read_clock
from keepaug.study.report import table_rows
from keepaug.study.results import collect
from keepaug.study.runs import StudyRun
from keepaug.study.study import Arm, Study

# Works for half a second of a processor, half of it in a child that has ended, then waits.
WORK = """
import subprocess, sys, time
work = 'import time\\nwhile time.process_time() < 0.25: pass'
subprocess.run([sys.executable, '-S', '-c', work])
while time.process_time() < 0.25: pass
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_processors_work_for_a_process_and_its_children():
    words = [sys.executable, '-S', '-c', WORK]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        worked = processor_seconds(process.pid)
        assert 0.45 <= worked < 1.5
        assert processor_seconds(process.pid) < worked + 0.2, 'to wait is no work'
        process.communicate()
    assert processor_seconds(process.pid) is None


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_a_name_in_no_encoding_is_nobody_s_concern(tmp_path, monkeypatch):
    for process, name in ((1, b'na\xefve (x)'), (2, b'python')):
        (tmp_path / str(process)).mkdir()
        (tmp_path / str(process) / 'stat').write_bytes(b'%d (%s) S 1 1 7 0 0 0 0 0 0 0 50 50 0 0 0' % (process, name))
    monkeypatch.setattr(clocks, 'Path', lambda path: tmp_path)
    assert processor_seconds(7) == pytest.approx(200 / os.sysconf('SC_CLK_TCK'))


def summary(folder, epochs):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'summary.csv').write_text('epoch\n' + ''.join(f'{epoch}\n' for epoch in range(epochs)))


def test_what_earlier_parts_took_counts(tmp_path, monkeypatch):
    worked = iter([0.0, 3.0, 3.5, None, None, 0.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(clocks, 'processor_seconds', lambda session: next(worked))
    first = Clock(tmp_path, 1)
    summary(tmp_path, 2)
    first.look()
    assert read_clock(tmp_path, PROCESSOR) == {0: 3.5, 1: 3.5} and read_clock(tmp_path).keys() == {0, 1}
    assert first.seconds()[PROCESSOR] == 3.5, 'what is known stays when the process has ended'
    first.look()
    second = Clock(tmp_path, 2)
    summary(tmp_path, 3)
    second.look()
    assert read_clock(tmp_path, PROCESSOR)[2] == 5.5


def test_a_run_whose_first_part_was_not_told_keeps_the_time_that_passed(tmp_path, monkeypatch):
    monkeypatch.setattr(clocks, 'processor_seconds', lambda session: 1.0)
    (tmp_path / 'clock.csv').write_text('0,10.0\n')
    clock = Clock(tmp_path, 1)
    summary(tmp_path, 2)
    clock.look()
    assert read_clock(tmp_path)[1] >= 10 and read_clock(tmp_path, PROCESSOR) == {}
    assert clock.seconds()[PROCESSOR] is None


@pytest.mark.parametrize(
    'slot, known, told, equal',
    [('cpu:1', True, PROCESSOR, 60.0), ('cuda:0', True, WALL, 50.0), ('cpu:1', False, WALL, 50.0)],
)
def test_which_time_is_equal(slot, known, told, equal, tmp_path):
    """The dear arm worked for as long as the cheap one in its second epoch, but waited for others in between."""
    runs = [StudyRun(Arm(name), 0, (), tmp_path / name, True, {}) for name in ('cheap', 'dear')]
    for run, wall in zip(runs, (10, 100)):
        run.folder.mkdir()
        (run.folder / 'summary.csv').write_text('epoch,eval_top1\n0,50\n1,60\n')
        (run.folder / 'clock.csv').write_text(f'0,{wall / 2}\n1,{wall}\n' if run is runs[0] else f'0,9\n1,{wall}\n')
        outcome = dict(status='done', seconds=wall, slot=slot, **(dict(processor_seconds=8) if known else {}))
        (run.folder / 'outcome.json').write_text(json.dumps(outcome))
        if known:
            (run.folder / 'processor-clock.csv').write_text('0,4\n1,8\n')
    found = collect(Study(tmp_path / 'x.yaml', 'x', tuple(run.arm for run in runs)), runs)
    assert [row['at_equal_time'] for row in found.rows] == [60.0, equal]
    assert {row['clock'] for row in found.rows} == {told} and f'at equal {told} time' in table_rows(found)[0]
