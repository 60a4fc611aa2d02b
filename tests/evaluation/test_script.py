"""validate.py --evaluate on checkpoints of a run: rows, files, processes, refusals."""

import csv
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

import validate
from keepaug.evaluation import Report
from keepaug.evaluation.run import EVALUATIONS
from keepaug.options.evaluation import EVALUATIONS as NAMES
from tests.processes import run_together
from tests.scripts import TINY, as_script, refuse_validate, run_train, run_validate, write_images

pytestmark = pytest.mark.xdist_group('processes')

COMMON = '--model test_resnet --img-size 32 --num-classes 3 --device cpu -j 0 -b 5 --log-freq 1'

# What an evaluation needs beside the validation images.
EXTRA = {'localization': '--gt-boxes {data}/boxes.csv', 'ood': '--ood-data-dir {data}/train/class1'}
# Those that draw.
SEEDED = ('occlusion', 'in-between', 'ood', 'risk', 'spectrum')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp('images'))
    (folder / 'boxes.csv').write_text(
        ''.join(f'{path.relative_to(folder)},8,8,24,28\n' for path in sorted(folder.glob('val/*/*.png')))
    )
    return folder


@pytest.fixture(scope='module')
def runs(data, tmp_path_factory):
    output = tmp_path_factory.mktemp('runs')
    return [run_train(f'{data} {TINY} --epochs 1 --seed {seed}', output, f'run{seed}') for seed in (1, 2)]


def test_every_name_has_its_evaluation():
    assert set(EVALUATIONS) == set(NAMES)


@pytest.mark.parametrize('name', EVALUATIONS)
def test_two_checkpoints_side_by_side(name, data, runs, tmp_path, capsys):
    rows = run_validate(
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --compare {runs[1]}/last.pth.tar --evaluate {name} '
        f'--analysis-dir {tmp_path}/out --results-file {tmp_path}/rows.csv {EXTRA.get(name, "").format(data=data)}',
        capsys,
    )
    prefix = name.replace('-', '_')
    assert {row['checkpoint'] for row in rows} == {f'{run}/last.pth.tar' for run in runs}
    columns = [column for column in rows[0] if column.startswith(prefix + '_')]
    assert columns and all(isinstance(row[column], (int, float)) for row in rows for column in columns)
    with open(tmp_path / 'rows.csv', newline='') as file:
        written = list(csv.DictReader(file))
    assert [row[columns[0]] for row in written] == [str(row[columns[0]]) for row in rows]
    found = json.loads((tmp_path / 'out' / f'{name}.json').read_text())
    assert set(found) == {'run1', 'run2'}
    assert all(report['note'] and report['settings'] for report in found.values())
    assert Image.open(tmp_path / 'out' / f'{name}.png').width > 100
    # Each keeps its own confusion beside the common pictures.
    assert (tmp_path / 'out' / 'run2' / 'confusion.png').exists()


@pytest.mark.parametrize('flags', ['', '--analysis-dir {folder}'])
def test_what_numbers_mean_is_logged_once(flags, data, runs, tmp_path, capsys, caplog):
    caplog.set_level('INFO')
    run_validate(
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --compare {runs[1]}/last.pth.tar '
        f'--evaluate occlusion fgsm {flags.format(folder=tmp_path)}',
        capsys,
    )
    for result, note in (('fgsm: top1', 'bounds robustness'), ('occlusion: clean_error', 'set to the mean colour')):
        assert (caplog.text.count(result), caplog.text.count(note)) == (2, 1)


def test_same_seed_same_numbers_whatever_the_batch(data, runs, capsys):
    flags = f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --evaluate {" ".join(SEEDED)} --eval-samples 11'
    first, again = run_validate(flags, capsys), run_validate(flags + ' -b 3 -j 2', capsys)
    assert first == pytest.approx(again, abs=1e-3), 'but for rounding'
    other = run_validate(flags + ' --seed 7', capsys)
    assert first['top1'] == other['top1'] and first != other


def test_samples_are_chosen_among_images_with_boxes(data, runs, tmp_path, capsys, caplog):
    lines = (data / 'boxes.csv').read_text().splitlines()
    assert len(lines) == 24
    (tmp_path / 'some.csv').write_text('\n'.join(lines[-4:]))
    caplog.set_level('INFO')
    for flags, images in (('--eval-samples 3', 3), ('', 4)):
        run_validate(
            f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --evaluate localization --crop-pct 1 {flags} '
            f'--gt-boxes {tmp_path}/some.csv --analysis-dir {tmp_path}/out',
            capsys,
        )
        (report,) = json.loads((tmp_path / 'out' / 'localization.json').read_text()).values()
        assert (report['settings']['images'], report['settings']['left_out']) == (images, 0)
        assert 'boxes for 4 of 24 images, 20 have none' in caplog.text


def test_options_that_change_how_it_computes(data, runs, capsys):
    plain = f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --evaluate fgsm'
    expected = run_validate(plain, capsys)
    for flags in ('--channels-last', '--no-prefetcher', '--torchscript'):
        assert run_validate(f'{plain} {flags}', capsys) == expected, flags
    half = run_validate(f'{plain} --amp --amp-dtype bfloat16', capsys)
    assert half['fgsm_top1'] == pytest.approx(expected['fgsm_top1'], abs=20)


def test_only_some_classes(data, runs, tmp_path, capsys):
    labels = tmp_path / 'labels.txt'
    labels.write_text('2\n1\n0\n')
    flags = f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --evaluate fgsm --fgsm-eps 0'
    reversed_classes = run_validate(f'{flags} --valid-labels {labels}', capsys)
    assert reversed_classes['fgsm_clean_top1'] == reversed_classes['fgsm_top1'] == reversed_classes['top1']


def test_pixels_are_those_of_the_file(data, runs, monkeypatch, capsys):
    """Whatever they are normalised by, steps and noise are in pixels."""
    seen = []

    def look(subject, batches, eps):
        x, _, numbers = next(iter(batches))
        seen.append((subject.to_pixels(x)[0], numbers[0]))
        return Report('fgsm', {}, {}, '')

    monkeypatch.setattr('keepaug.evaluation.run.fgsm', look)
    run_validate(
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --evaluate fgsm --crop-pct 1 --mean 0.1 0.2 0.3 '
        '--std 0.4 0.5 0.6',
        capsys,
    )
    ((pixels, number),) = seen
    file = sorted(data.glob('val/*/*.png'))[number]
    torch.testing.assert_close(pixels, to_tensor(Image.open(file)), atol=1e-5, rtol=0.0)


def test_checkpoints_of_one_name_in_one_folder_each(data, runs, tmp_path, capsys):
    folder = tmp_path / 'both'
    folder.mkdir()
    for run in runs:
        os.link(run / 'last.pth.tar', folder / f'{run.name}.pth.tar')
    rows = run_validate(f'{data} {COMMON} --checkpoint {folder} --evaluate fgsm --analysis-dir {tmp_path}/out', capsys)
    assert len(rows) == 2
    assert set(json.loads((tmp_path / 'out' / 'fgsm.json').read_text())) == {'run1.pth.tar', 'run2.pth.tar'}


def test_compared_with_another_architecture(data, runs, tmp_path_factory, capsys):
    other = run_train(f'{data} {TINY} --epochs 1 --model test_byobnet', tmp_path_factory.mktemp('other'))
    rows = run_validate(
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --compare {other}/last.pth.tar --evaluate fgsm', capsys
    )
    assert {row['model'] for row in rows} == {'test_resnet', 'test_byobnet'}


def _validate(rank: int, flags: str, printed: Path) -> None:
    with open(printed if rank == 0 else os.devnull, 'w') as stdout, redirect_stdout(stdout):
        with as_script(validate, ['validate.py', *flags.split()]):
            validate.main()


def _with_torchrun(flags: str, printed: Path) -> None:
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', 'validate.py']
    with open(printed, 'w') as stdout:
        subprocess.run([*command, *flags.split()], stdout=stdout, timeout=120, check=True)


@pytest.mark.parametrize(
    'start',
    [lambda *args: run_together(2, _validate, *args), pytest.param(_with_torchrun, marks=pytest.mark.slow)],
    ids=['forked', 'torchrun'],
)
def test_two_processes_find_what_one_finds(start, data, runs, tmp_path, capsys):
    flags = (
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --evaluate {" ".join(SEEDED)} --eval-samples 11 '
        f'--evaluate localization {EXTRA["localization"].format(data=data)}'
    )
    alone = run_validate(flags, capsys)
    start(flags, tmp_path / 'printed')
    together = json.loads((tmp_path / 'printed').read_text().partition('--result\n')[2])
    assert together == pytest.approx(alone, abs=1e-3)


@pytest.mark.parametrize(
    'name, flag',
    [
        ('localization', '--gt-boxes x.csv'),
        ('localization', '--cam-threshold 0.3'),
        ('fgsm', '--fgsm-eps 4.0'),
        ('ood', '--ood-data-dir some more'),
        ('ood', '--odin-temperature 10.0'),
        ('ood', '--odin-eps 0.1'),
        ('risk', '--risk-args x.yaml'),
        ('spectrum', '--spectrum-class 1,0'),
    ],
)
def test_flags_without_their_evaluation(name, flag, data, capsys):
    for others in ('', '--evaluate occlusion'):
        said = refuse_validate(f'{data} {COMMON} {flag} {others}', capsys)
        assert f'{flag} has no effect without --evaluate {name}:' in said


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--evaluate fgsm --task multilabel --dataset hfds/some', ['--evaluate fgsm', '--task multilabel']),
        ('--evaluate fgsm --naflex-loader', ['--evaluate fgsm', '--naflex-loader']),
        ('--evaluate fgsm --eval-samples 0', ['--eval-samples', 'at least 1', 'got 0']),
        ('--eval-samples 9', ['--eval-samples', '--evaluate']),
        ('--eval-samples 0', ['--eval-samples', 'at least 1']),
        ('--evaluate fgsm --fgsm-eps -1', ['--fgsm-eps', '255', 'got -1']),
        ('--evaluate fgsm --fgsm-eps nan', ['--fgsm-eps', '255', 'got nan']),
        ('--evaluate fgsm --fgsm-eps 256', ['--fgsm-eps', '255', 'got 256']),
        ('--evaluate fgsm --analysis-dir /proc/x', ['--analysis-dir /proc/x', 'that you may write to']),
        ('--evaluate fgsm --fgsm-eps inf', ['--fgsm-eps', '255', 'got inf']),
        ('--evaluate fgsm --real-labels x.json', ['--real-labels']),
        ('--compare nowhere.pth', ['--compare nowhere.pth', 'does not exist']),
    ],
)
def test_refusals(flags, words, data, capsys):
    said = refuse_validate(f'{data} {COMMON} {flags}', capsys)
    assert all(word in said for word in words)


@pytest.mark.parametrize(
    'flags, words',
    [
        ('{data} --evaluate fgsm ood --ood-data-dir {empty}', ['--ood-data-dir', 'empty holds no images']),
        ('{data} --evaluate localization --gt-boxes {broken}', ['--gt-boxes', 'line 1']),
        ('{data} --evaluate spectrum --spectrum-class 3', ['--spectrum-class 3', 'classes 0 to 2']),
        ('{data} --img-size 192 --test-pool --evaluate fgsm spectrum', ['forward_features', 'TestTimePoolHead']),
        ('{data}/val --evaluate occlusion spectrum', ['no training images']),
        ('{data}/val --evaluate risk', ['no training images']),
        ('{held} --evaluate risk', ['no training images', 'as train']),
        ('{held} --evaluate spectrum', ['no training images', 'as train']),
        ('{data} --evaluate risk --eval-samples 1', ['--evaluate risk', '--eval-samples']),
    ],
)
def test_refused_before_any_image_is_read(flags, words, data, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(validate.training, 'validate', mock.Mock(side_effect=AssertionError('the plain pass began')))
    empty, broken = tmp_path / 'empty', tmp_path / 'boxes.csv'
    empty.mkdir()
    broken.write_text('class0/00.png,1,2,3\n')
    held = tmp_path / 'held'  # images to validate alone
    held.mkdir()
    (held / 'val').symlink_to(data / 'val')
    flags = flags.format(data=data, empty=empty, broken=broken, held=held)
    said = refuse_validate(f'{COMMON} {flags} --checkpoint {runs[0]}/last.pth.tar', capsys)
    assert all(word in said for word in words)


def test_a_compared_file_that_is_none(data, runs, tmp_path, capsys):
    broken = tmp_path / 'broken.pth.tar'
    broken.write_bytes(b'no checkpoint')
    said = refuse_validate(f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --compare {broken}', capsys)
    assert '--compare' in said and 'no checkpoint' in said


@pytest.fixture
def of_two_classes(runs, tmp_path):
    """Checkpoints of too few classes for the data: with its arguments, and weights alone."""
    held = torch.load(runs[0] / 'last.pth.tar', weights_only=False)
    held['args'].num_classes = 2
    weights = {key: value[:2] if key.startswith('fc.') else value for key, value in held['state_dict'].items()}
    torch.save(dict(held, state_dict=weights), tmp_path / 'whole.pth.tar')
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth.tar')
    return tmp_path


@pytest.mark.parametrize(
    'name, words',
    [
        ('whole', ['has 3 classes', 'has 2', 'leave it out']),
        ('weights', ['has 2 classes, not 3', '--num-classes 2']),
    ],
)
def test_one_that_fails_does_not_pass_unsaid(name, words, data, runs, of_two_classes, tmp_path, capsys, caplog):
    """The others are finished and written first."""
    said = refuse_validate(
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --compare {of_two_classes}/{name}.pth.tar '
        f'{runs[1]}/last.pth.tar --evaluate occlusion --analysis-dir {tmp_path}/out --results-file {tmp_path}/rows.csv',
        capsys,
    )
    assert '1 of 3 could not be validated' in said
    with open(tmp_path / 'rows.csv', newline='') as file:
        assert {row['checkpoint'] for row in csv.DictReader(file)} == {f'{run}/last.pth.tar' for run in runs}
    assert len(json.loads((tmp_path / 'out' / 'occlusion.json').read_text())) == 2
    (why,) = (line.getMessage() for line in caplog.records if line.levelname == 'ERROR')
    assert all(word in why for word in [f'--compare {of_two_classes}/{name}.pth.tar', *words])


def test_the_number_of_classes_of_a_checkpoint_is_told(data, of_two_classes, capsys):
    said = refuse_validate(f'{data} {COMMON} --checkpoint {of_two_classes}/weights.pth.tar', capsys)
    assert f'--checkpoint {of_two_classes}/weights.pth.tar' in said and 'give --num-classes 2' in said


def test_a_folder_beside_a_named_one(data, runs, tmp_path, capsys):
    """Of a folder those that fail are left out."""
    folder = tmp_path / 'folder'
    folder.mkdir()
    os.link(runs[0] / 'last.pth.tar', folder / 'good.pth.tar')
    (folder / 'bad.pth.tar').write_bytes(b'damaged')
    rows = run_validate(f'{data} {COMMON} --checkpoint {folder} --compare {runs[1]}/last.pth.tar', capsys)
    assert {row['checkpoint'] for row in rows} == {f'{folder}/good.pth.tar', f'{runs[1]}/last.pth.tar'}


def test_a_file_is_judged_once(data, runs, tmp_path, capsys):
    one, other = (f'{run}/last.pth.tar' for run in runs)
    os.symlink(other, tmp_path / 'link.pth.tar')
    rows = run_validate(
        f'{data} {COMMON} --checkpoint {one} --compare {runs[0]}/../run1/last.pth.tar {other} {tmp_path}/link.pth.tar',
        capsys,
    )
    assert sorted(row['checkpoint'] for row in rows) == [one, other]


def test_a_compared_run_that_is_not_known(data, runs, of_two_classes, monkeypatch, capsys):
    monkeypatch.setattr(validate, 'validate', mock.Mock(side_effect=AssertionError('a model is built')))
    path = of_two_classes / 'weights.pth.tar'
    said = refuse_validate(
        f'{data} {COMMON} --checkpoint {runs[0]}/last.pth.tar --compare {path} --evaluate risk', capsys
    )
    assert f'--compare {path}' in said and '--risk-args' in said


def test_a_missing_package(data, monkeypatch, capsys):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    said = refuse_validate(f'{data} {COMMON} --evaluate ood fgsm', capsys)
    assert '--evaluate ood fgsm' in said and "pip install -e '.[eval]'" in said
