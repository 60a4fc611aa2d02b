"""Runs with `--uda`: what they refuse, leave behind, show and measure."""

import csv
import re
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keepaug
from keepaug import options, preview
from keepaug.data import unlabelled
from keepaug.measuring import risks
from keepaug.pictures import record
from keepaug.training.consistency_task import AnnealedCrossEntropy, ConsistencyTask
from tests.scripts import TINY, refuse_train, run_train, run_validate
from tests.sentences import says
from tests.test_exact_resume import assert_same, assert_same_run, checkpoint, train_both

UDA = '--uda --uda-labels 6 --uda-ratio 2 --aa rand-m9-mstd0.5 -b 4'
CONTROL = '--uda --uda-labels 6 --uda-ratio 2 --uda-weight 0 -b 4'


@pytest.mark.parametrize(
    'flags, named',
    [
        ('--uda', ['--uda', '--aa']),
        ('--uda-labels 5', ['--uda-labels 5', '--uda']),
        (f'{UDA} --uda-labels 0', ['--uda-labels', '0']),
        (f'{UDA} --uda-threshold 1', ['--uda-threshold', 'below 1']),
        (f'{UDA} --uda-temperature 0', ['--uda-temperature', 'above 0']),
        (f'{UDA} --uda-weight=-1', ['--uda-weight', 'at least 0']),
        (f'{UDA} --uda-ratio 0', ['--uda-ratio', 'at least 1']),
        (f'{UDA} --no-aug', ['--uda', '--no-aug']),
        (f'{UDA} --mixup 0.2', ['--uda', '--mixup']),
        (f'{UDA} --keep-cut cutmix', ['--uda', '--keep-cut cutmix', 'labels']),
        (f'{UDA} --attentive-cutmix', ['--uda', '--attentive-cutmix']),
        (f'{UDA} --feature-cutmix', ['--uda', '--feature-cutmix']),
        (f'{UDA} --augment-copies 2', ['--uda', '--augment-copies 2']),
        (f'{UDA} --joint-occlusion', ['--uda', '--joint-occlusion']),
        (f'{UDA} --keep-cut --keep-saliency recycled', ['--uda', '--keep-saliency recycled']),
        (f'{UDA} --reprob 0.3', ['--uda', '--reprob 0.3', '--keep-paste']),
        (f'{UDA} --uda-tsa log --loss poly', ['--uda-tsa log', '--loss poly']),
        (f'{UDA} --bce-loss', ['--uda', '--loss bce']),
        (f'{UDA} --kd-model-name test_resnet', ['--uda', '--kd-model-name test_resnet']),
        (f'{UDA} --epoch-repeats 2', ['--uda', '--epoch-repeats 2']),
        (f'{UDA} --aug-repeats 3', ['--uda', '--aug-repeats 3']),
        (f'{CONTROL} --aa rand-m9', ['--aa rand-m9', '--uda-weight 0']),
        (f'{CONTROL} --uda-tsa log', ['--uda-tsa log', '--uda-weight 0']),
        (f'{CONTROL} --cutout 8', ['--cutout 8', '--uda-weight 0']),
        (f'{CONTROL} --uda-epoch labelled', ['--uda-ratio 2', '--uda-weight 0']),
        (f'{UDA} -b 8 --uda-epoch labelled', ['--uda-epoch labelled', '--uda-labels 6', '--batch-size 8']),
    ],
)
def test_refusals(flags, named):
    with pytest.raises(ValueError) as error:
        args = keepaug.prepare(options.create_parser().parse_args(['data', *TINY.split(), *flags.split()]))
        options.check_stock(args)
    says(str(error.value), *named)


def test_a_run_says_what_an_epoch_is_and_lists_its_labels(data, tmp_path, caplog):
    with caplog.at_level('INFO', logger='train'):
        run = run_train(f'{data} {TINY} {UDA} --epochs 1', tmp_path)
    assert (
        'UDA: 6 labels. An epoch is a pass over the 24 unlabelled images, 3 batches of 4 labelled images and 8 '
        'unlabelled ones.'
    ) in caplog.text
    assert re.search(r'\n +policy +rand-m9-mstd0.5\n +uda +2 unlabelled per labelled image', caplog.text)
    rows = [*csv.DictReader((run / 'uda-labels.csv').open())]
    assert sorted(row['name'] for row in rows) == ['class0'] * 2 + ['class1'] * 2 + ['class2'] * 2


def test_the_other_epoch_and_further_images(data, tmp_path, caplog):
    further = shutil.copytree(data / 'val', tmp_path / 'further')
    with caplog.at_level('INFO', logger='train'):
        run_train(f'{data} {TINY} {UDA} --epochs 1 --uda-data-dir {further}', tmp_path, 'further-run')
        run_train(f'{data} {TINY} {UDA} --epochs 1 --uda-labels 9 --uda-epoch labelled', tmp_path, 'labelled')
    assert 'the 48 unlabelled images, 6 batches' in caplog.text
    assert 'the 9 labelled images, 2 batches of 4 labelled images and 8 unlabelled ones' in caplog.text


@pytest.mark.parametrize('check', ['--check', ''])
@pytest.mark.parametrize(
    'flags, named',
    [
        ('--uda-data-dir /nowhere', ['--uda-data-dir /nowhere', 'not exist']),
        ('--uda-data-dir {empty}', ['--uda-data-dir {empty}', 'no images']),
        ('--uda-labels 2', ['--uda-labels', 'at least 3', 'got 2']),
    ],
)
def test_refused_before_anything_is_built(flags, named, check, data, tmp_path, capsys, monkeypatch):
    empty = tmp_path / 'empty'
    (empty / 'folder').mkdir(parents=True)
    monkeypatch.setattr(keepaug.training, 'build_model', None)
    said = refuse_train(f'{data} {TINY} {UDA} {flags.format(empty=empty)} {check}', tmp_path, capsys)
    says(said, *(name.format(empty=empty) for name in named))


@pytest.mark.parametrize(
    'flags, named',
    [
        ('--uda-labels 25', ['--uda-labels', 'at most 24', '3 classes', '8 samples', 'got 25']),
        ('-b 8 --uda-ratio 7', ['--batch-size 8', '--uda-ratio 7', '56', '24']),
    ],
)
def test_refused_by_the_number_of_images(flags, named, data, tmp_path, capsys):
    says(refuse_train(f'{data} {TINY} {UDA} {flags}', tmp_path, capsys), *named)
    assert not (tmp_path / 'run').exists()


def test_a_set_smaller_than_a_batch_of_labels(data, tmp_path, capsys):
    flags = f'{UDA} -b 25 --uda-epoch labelled'.replace('--uda-labels 6 ', '')
    says(refuse_train(f'{data} {TINY} {flags}', tmp_path, capsys), '--uda-epoch labelled', '24', '--batch-size 25')


def test_labels_in_a_configuration(tmp_path, capsys):
    (tmp_path / 'uda.yaml').write_text('uda_labels: count = 3')
    with pytest.raises(SystemExit):
        options.parse_args(options.create_parser(), ['data', '--uda', '--config', f'{tmp_path}/uda.yaml'])
    said = capsys.readouterr().err.splitlines()[-1].replace(str(tmp_path), '')
    says(said, '--config /uda.yaml', 'uda_labels', "'count = 3'", 'whole number')


def test_labels_are_read_once(data, tmp_path, monkeypatch):
    read, reads = unlabelled.read_labels, []
    monkeypatch.setattr(unlabelled, 'read_labels', lambda dataset: reads.append(1) or read(dataset))
    run_train(f'{data} {TINY} {UDA} --epochs 1', tmp_path)
    assert len(reads) == 1


def test_other_further_images_are_noticed(data, tmp_path, capsys):
    """By their names, wherever the folder lies, and as exact resumption asks for."""
    further = shutil.copytree(data / 'val', tmp_path / 'further')
    flags = f'{data} {TINY} {UDA} --uda-epoch labelled --exact-resume'
    run = run_train(f'{flags} --uda-data-dir {further} --stop-epoch 1', tmp_path)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    moved = further.rename(tmp_path / 'moved')
    other = shutil.copytree(moved, tmp_path / 'other')
    (other / 'class0' / '00.png').rename(other / 'class0' / 'new.png')
    for flag, named in ('', ['no images']), (f'--uda-data-dir {other}', ['--uda-data-dir /other']):
        said = refuse_train(f'{flags} {flag} --resume auto', tmp_path, capsys)
        says(
            said.replace(str(tmp_path), ''),
            '--exact-resume',
            '--uda-data-dir',
            '24 images',
            '/run/last.pth.tar',
            *named,
        )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    run_train(f'{flags} --uda-data-dir {moved} --resume auto', tmp_path)


def test_another_seed_would_show_other_labels(data, tmp_path, capsys):
    run = run_train(f'{data} {TINY} {UDA} --epochs 1', tmp_path)
    resume = f'{data} {TINY} {UDA} --epochs 2 --resume {run}/last.pth.tar'
    said = refuse_train(f'{resume} --seed 1', tmp_path, capsys, 'other')
    assert f'another {run}/uda-labels.csv: give' in said and '--seed' in said
    assert not (tmp_path / 'other').exists()
    run_train(resume, tmp_path, 'same')


def test_a_refused_resumption_leaves_the_folder_as_it_is(data, tmp_path, capsys):
    run = run_train(f'{data} {TINY} {UDA}', tmp_path)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    flags = f'{data} {TINY} {UDA} --resume auto --start-epoch 1 --seed 1'
    assert f'another {run}/uda-labels.csv' in refuse_train(flags, tmp_path, capsys)
    assert {'args.yaml', 'summary.csv'} < {*before}
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    'flags',
    [
        f'{UDA} --keep-paste --keep-size 8 --no-prefetcher --model-ema --grad-accum-steps 2 --uda-tsa log',
        CONTROL,
    ],
)
def test_exactly_resumed(flags, data, tmp_path):
    assert_same_run(*train_both(f'{data} {TINY} {flags} --exact-resume', tmp_path))


@pytest.fixture
def thresholds(monkeypatch) -> list[float]:
    """Those that labels are annealed by, batch by batch."""
    seen = []
    forward = AnnealedCrossEntropy.forward

    def watch(self, *batch):
        loss = forward(self, *batch)
        seen.append(self.threshold)
        return loss

    monkeypatch.setattr(AnnealedCrossEntropy, 'forward', watch)
    return seen


def test_labels_are_annealed_by_updates(data, tmp_path, thresholds):
    """Three batches an epoch, two updates; from chance on, over all scheduled epochs, and 1 in the refined one."""
    run_train(f'{data} {TINY} {UDA} --uda-tsa linear --grad-accum-steps 2 --refine-epochs 1', tmp_path)
    wanted = [0, 0, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 1, 1, 1]
    assert thresholds == pytest.approx([1 / 3 + share * 2 / 3 for share in wanted])


def test_one_epoch_anneals_too(data, tmp_path, thresholds):
    run_train(f'{data} {TINY} {UDA} --uda-tsa linear --epochs 1', tmp_path)
    assert thresholds == pytest.approx([1 / 3 + share * 2 / 3 for share in (0, 1 / 3, 2 / 3)])


@pytest.mark.parametrize('exact', ['', '--exact-resume'])
def test_a_resumed_run_anneals_on(exact, data, tmp_path, thresholds):
    flags = f'{data} {TINY} {UDA} --uda-tsa exp {exact}'
    run_train(flags, tmp_path, 'whole')
    whole = thresholds.copy()
    thresholds.clear()
    run_train(f'{flags} --stop-epoch 1', tmp_path, 'parts')
    run_train(f'{flags} --resume auto', tmp_path, 'parts')
    assert thresholds == whole and len({*whole}) == 6


def test_workers_do_not_matter(data, tmp_path):
    runs = [
        run_train(f'{data} {TINY} {UDA} --exact-resume --risk-samples 4 {loader}', tmp_path, str(i))
        for i, loader in enumerate(['-j 0', '-j 2', '-j 1 --use-multi-epochs-loader'])
    ]
    for run in runs[1:]:
        assert_same(checkpoint(run)['state_dict'], checkpoint(runs[0])['state_dict'])
        assert (run / 'summary.csv').read_text() == (runs[0] / 'summary.csv').read_text()


def test_watching_changes_nothing_and_tells_of_both_losses(data, tmp_path):
    flags = f'{data} {TINY} {UDA} --keep-paste --keep-size 8 --uda-threshold 0.3 --exact-resume --watch-samples 4'
    plain = run_train(flags.replace('--watch-samples 4', ''), tmp_path, 'plain')
    watched = run_train(f'{flags} --log-tensorboard', tmp_path, 'watched')
    assert_same(checkpoint(watched)['state_dict'], checkpoint(plain)['state_dict'])
    events = EventAccumulator(str(watched)).Reload()
    assert {'uda/labelled', 'uda/consistency', 'uda/confident', 'saliency_kept'} <= {*events.Tags()['scalars']}
    shares = [event.value for event in events.Scalars('uda/confident')]
    assert len(shares) == 2 and all(0 < share <= 1 for share in shares)


def test_refined_and_measured(data, tmp_path):
    run = run_train(f'{data} {TINY} {UDA} --keep-paste --keep-size 8 --epochs 1 --refine-epochs 1', tmp_path)
    rows = [*csv.DictReader((run / 'summary.csv').open())]
    assert [row['phase'] for row in rows] == ['augmented', 'refined']
    # Refined, the second image is the first: the risks are of the same images but for crop and flip.
    assert all(float(row[name]) > 0 for row in rows for name in ('risk_augmented', 'risk_clean'))


def test_risk_is_of_labelled_images(data, tmp_path, monkeypatch):
    chosen = []
    select = risks.select_batches
    monkeypatch.setattr(
        risks, 'select_batches', lambda loader, samples, *rest: chosen.append(samples) or select(loader, samples, *rest)
    )
    run = run_train(f'{data} {TINY} {UDA} --epochs 1 --risk-samples 100', tmp_path)
    listed = [int(row['number']) for row in csv.DictReader((run / 'uda-labels.csv').open())]
    assert sorted(chosen[0]) == listed


def test_a_finished_run_is_replayed(data, tmp_path, capsys):
    """Without its further images, which need not be there any more."""
    further = shutil.copytree(data / 'val', tmp_path / 'further')
    run = run_train(f'{data} {TINY} {UDA} --epochs 1 --uda-data-dir {further} --keep-paste', tmp_path)
    shutil.rmtree(further)
    found = run_validate(
        f'{data} --model test_resnet --num-classes 3 --img-size 32 --device cpu -j 0 -b 8 --split train '
        f'--checkpoint {run}/last.pth.tar --evaluate risk',
        capsys,
    )
    assert found['risk_augmented'] > 0


@pytest.mark.parametrize(
    'flags, columns',
    [
        ('--aa rand-m9', ['image', 'Policy: result']),
        (
            '--aa rand-m9 --keep-paste --keep-size 8',
            ['image', 'KeepPaste: policy', 'KeepPaste: saliency', 'KeepPaste: result'],
        ),
    ],
)
def test_preview_shows_clean_policy_and_pasted(flags, columns, data, tmp_path, monkeypatch):
    shown = []
    sheet = record.contact_sheet
    monkeypatch.setattr(
        record,
        'contact_sheet',
        lambda images, *rest, **named: shown.append((images, named)) or sheet(images, *rest, **named),
    )
    monkeypatch.setattr(preview, 'setup_default_logging', lambda: None)
    preview.main(
        f'{data} {TINY} --uda --uda-labels 6 {flags} --preview-images 4 --preview-output {tmp_path}/sheet.png'.split()
    )
    images, named = shown[0]
    assert list(images) == columns and named['captions'] == ['no label'] * 4
    assert not torch.equal(images['image'], images[columns[-1]])


def test_the_control_takes_as_many_steps(data, tmp_path, monkeypatch):
    steps = []
    forward = ConsistencyTask.forward
    monkeypatch.setattr(ConsistencyTask, 'forward', lambda *batch: steps.append(len(batch[1])) or forward(*batch))
    run_train(f'{data} {TINY} {UDA} --epochs 1', tmp_path, 'uda')
    assert steps == [4 * 5] * 3
    logged = {}
    for name, flags in ('uda', UDA), ('control', CONTROL):
        run = run_train(f'{data} {TINY} {flags} --epochs 1 --save-images --log-interval 1', tmp_path, f'{name}-2')
        logged[name] = len([*run.glob('train-batch-*.jpg')])
    assert logged['uda'] == logged['control'] == 3 and steps == [20] * 6


def test_the_control_jitters_no_colours(data):
    """Its labelled images are those that the arms beside it see: cropped and flipped."""
    args = keepaug.prepare(options.parse_options(options.create_parser(), f'{data} --uda --uda-weight 0'.split()))
    assert (args.color_jitter, args.grayscale_prob, args.gaussian_blur_prob) == (0, 0, 0)
