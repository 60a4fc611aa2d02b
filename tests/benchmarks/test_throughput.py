"""The benchmark against stock's script, with a stand-in for both that logs what they log."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
# Takes the flags that both take; its steps take as long as its file says, half of that after `--keep-paste`.
STAND_IN = """
import sys, time
flags = sys.argv[1:]
if '--help' in flags or '--check' in flags:
    if 'recycled' in flags:
        sys.exit('train.py: error: recycled is not for this one.')
    sys.exit(0)
for flag in ('--data-dir', '--model', '--img-size', '--num-classes', '-b', '--log-interval', '-j', '--output'):
    assert flag in flags, flag
seconds = {seconds} / (1 + ('--keep-paste' in flags))
held = bytearray({megabytes} * 2 ** 20)
for epoch in range(int(flags[flags.index('--epochs') + 1])):
    for step in range(4):
        time.sleep(seconds)
        print(f'Train: {{epoch}} [{{step:>4d}}/4 ({{25 * step:>3.0f}}%)]  Loss: 1.0', flush=True)
"""


@pytest.fixture
def throughput(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import throughput

    return throughput


def stand_in(path: Path, seconds: float, megabytes: int = 1) -> Path:
    path.write_text(STAND_IN.format(seconds=seconds, megabytes=megabytes))
    return path


def test_report(throughput, tmp_path, monkeypatch, capsys):
    stock = stand_in(tmp_path / 'stock.py', 0.05)
    ours = stand_in(tmp_path / 'ours.py', 0.1, megabytes=300)
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'throughput.py',
            '--stock',
            str(stock),
            '--ours',
            str(ours),
            '--rounds',
            '1',
            '--images',
            '4',
            '-b',
            '2',
            '--workers',
            '1',
            '--epochs',
            '2',
            '--files',
            '400',
            '--output',
            str(tmp_path / 'out.json'),
            '--rows',
            'our flags off',
            'keep-cut recycled',
            'keep-paste',
            '--',
            '--device',
            'cpu',
        ],
    )
    throughput.main()
    (report,) = json.loads((tmp_path / 'out.json').read_text())
    off, paste = (report['rows'][f'{name}, 1 workers'] for name in ('our flags off', 'keep-paste'))
    assert off['rate']['ratio'] == pytest.approx(0.5, rel=0.4) and paste['rate']['ratio'] == pytest.approx(1, rel=0.4)
    assert off['rate']['stock'] == pytest.approx(40, rel=0.4), 'two images every 0.05 s'
    assert 250 * 2**20 < off['memory']['ours'] - off['memory']['stock'] < 350 * 2**20
    assert off['first_step']['ours'] > 0.1
    assert 'recycled is not for this one' in report['rows']['keep-cut recycled']['refused']
    assert set(report['start']) == {'--help', '--check', 'listing'} and report['flags'] == '--device cpu'
    said = capsys.readouterr().out
    assert 'images per second, stock' in said and 'keep-cut recycled: not run' in said


def test_a_run_that_fails_is_told_with_its_last_lines(throughput, tmp_path):
    script = tmp_path / 'broken.py'
    script.write_text('print("no such thing"); raise SystemExit(3)')
    with pytest.raises(RuntimeError, match='status 3(.|\n)*no such thing'):
        throughput.run(script, '', 2)


def test_memory_counts_processes_below(throughput):
    code = 'import subprocess, sys; subprocess.run([sys.executable, "-c", "b = bytearray(2 ** 28); print(1); input()"])'
    parent = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    parent.stdout.readline()
    assert throughput.resident(parent.pid) > 2**28
    parent.communicate(b'\n')
    assert throughput.resident(parent.pid) == 0
