"""`pip install` of the wheel is enough: every command works without the checkout, in an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from keepaug.demo import ARMS, STUDIED, read_studied
from keepaug.study.statistics import spread_of
from tests.scripts import TINY

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('wheel')]
DIGITS = '--dataset keepaug/cluttered-digits --model test_resnet --num-classes 10 --img-size 40 --device cpu -j 0'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    pip = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation']
    subprocess.run([*pip, '--wheel-dir', folder, ROOT], check=True)
    (file,) = folder.glob('keepaug-*.whl')
    return file


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel, and all else from the one of the tests."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder)
    site = folder / Path(sysconfig.get_path('purelib')).relative_to(sys.prefix)
    pip = [sys.executable, '-m', 'pip', '--python', folder / 'bin' / 'python', 'install', '--quiet', '--no-deps', wheel]
    subprocess.run(pip, check=True)
    (site / 'heavy.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return folder


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """Where the commands run, one after the other."""
    return tmp_path_factory.mktemp('empty')


def run(environment: Path, place: Path, line: str) -> subprocess.CompletedProcess:
    """Runs a command line, as typed in an environment that is active."""
    path = f'{environment / "bin"}:{os.environ["PATH"]}'
    clean = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    return subprocess.run(
        ['bash', '-c', line],
        cwd=place,
        env={**clean, 'PATH': path, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )


def ran(environment: Path, place: Path, line: str) -> str:
    """All that a command line says, which must end well."""
    done = run(environment, place, line)
    assert done.returncode == 0, f'{line}\n{done.stdout}\n{done.stderr}'
    return done.stdout + done.stderr


def test_holds_the_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition('/')[0].partition('-')[0] for name in names} == {'keepaug'}, 'no module called train'
    for name in (
        'train.py',
        'validate.py',
        'py.typed',
        'hparams/cifar10/keepcutout.yaml',
        'benchmarks/results/digits.csv',
    ):
        assert f'keepaug/{name}' in names
    packed = zipfile.ZipFile(wheel).read('keepaug/train.py')
    assert packed == (ROOT / 'train.py').read_bytes()


def test_a_run_and_what_follows_on_it(environment, place):
    said = ran(environment, place, 'python -c "import keepaug; print(keepaug.__file__)"')
    assert str(environment) in said, 'not the checkout'
    said = ran(
        environment,
        place,
        f'keepaug-train {DIGITS} -b 64 --epochs 1 --warmup-epochs 0 -c cifar10/keepcutout --keep-size 16 '
        '--train-num-samples 256 --val-num-samples 128 --output runs --experiment one',
    )
    lines = dict(line.split(': ', 1) for line in said.splitlines() if line.startswith(('Validate it', 'Export it')))
    assert lines['Validate it'].startswith('keepaug-validate ') and lines['Export it'].startswith('keepaug-export ')
    assert '--result' in ran(environment, place, lines['Validate it'])
    assert 'model_best' in ran(environment, place, lines['Export it']) or (place / 'runs/one').exists()
    resumed = next(line for line in said.splitlines() if line.startswith('Train on: ')).removeprefix('Train on: ')
    assert resumed.startswith('keepaug-train ')
    assert 'keepaug-train' in ran(environment, place, resumed)
    ran(environment, place, 'keepaug-plot runs/one')
    assert (place / 'runs' / 'one' / 'curves.png').stat().st_size > 1000


def test_preview(environment, place):
    ran(environment, place, f'keepaug-preview {DIGITS} --keep-cut --preview-images 2 --preview-output sheet.png')
    assert (place / 'sheet.png').stat().st_size > 1000


def test_demo(environment, place):
    said = ran(environment, place, 'keepaug-demo --epochs 1 --images 50 --output demo')
    assert '$ keepaug-train ' in said and (place / 'demo' / 'keep-cut.png').exists()
    studied = read_studied(STUDIED)
    for arm in ARMS:
        found = spread_of(list(studied[arm].values()))
        assert f'{found.mean:.1f} ± {found.deviation:.1f}' in said


def test_study(environment, place, data):
    listed = ran(environment, place, f'keepaug-study papers/keepaugment/table1 --list -- --data-dir {data}')
    assert all(line.startswith('keepaug-study papers/keepaugment/table1') for line in listed.splitlines()[-3:])
    (place / 'tiny.yaml').write_text('title: tiny\nseeds: 1\narms: {none: {}, cut: {flags: --keep-cut}}\n')
    ran(
        environment,
        place,
        f'keepaug-study tiny.yaml --output study -- --data-dir {data} {TINY.replace("--device cpu", "")}',
    )
    assert (place / 'study' / 'report.html').exists()


def test_several_processes(environment, place, data):
    said = ran(
        environment,
        place,
        f'python -m torch.distributed.run --standalone --nproc_per_node=2 -m keepaug.train {data} {TINY} --epochs 1 '
        '--keep-cut --output runs --experiment two',
    )
    assert 'torchrun --nproc_per_node=2 -m keepaug.train' in said


def test_what_is_missing_is_said(environment, place, tmp_path):
    """A package of an extra that is not installed: the sentence names the extra."""
    for package, line, extra in (
        ('sklearn', f'keepaug-train {DIGITS}', 'demo'),
        ('matplotlib', 'keepaug-plot runs/one', 'plot'),
    ):
        bare = tmp_path / package
        shutil.copytree(environment, bare, symlinks=True)
        site = next(bare.glob('lib/python*/site-packages'))
        (site / 'sitecustomize.py').write_text(
            'import importlib.util, sys\nfind = importlib.util.find_spec\n'
            f'sys.modules[{package!r}] = None\n'
            f'importlib.util.find_spec = lambda name, *rest: None if name == {package!r} else find(name, *rest)\n'
        )
        done = run(environment, place, f'{bare}/bin/python -m keepaug.{line.removeprefix("keepaug-")}')
        assert done.returncode == 2 and f"pip install 'keepaug[{extra}]'" in done.stderr, done.stderr
