"""validate.py on checkpoints of a run: result keys and numbers, folders, averaged weights, files of results."""

import csv
import json
from unittest import mock

import pytest
import timm
import torch
from timm.data import create_dataset, create_loader

import validate
from keepaug import EarlyExit
from keepaug.export import command
from tests.scripts import TINY, refuse_validate, run_train, run_validate

pytestmark = pytest.mark.xdist_group('validate')

COMMON = '--model test_resnet --img-size 32 --num-classes 3 --device cpu -j 0 -b 8'
KEYS = ['model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation']


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    return run_train(f'{data} {TINY} --model-ema --model-ema-decay 0.99', tmp_path_factory.mktemp('run'))


def test_one_checkpoint(data, run, capsys):
    result = run_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar', capsys)
    assert list(result) == KEYS
    assert result['top1'] + result['top1_err'] == pytest.approx(100)
    # The same by hand, on the same loader's images.
    model = timm.create_model('test_resnet', num_classes=3)
    model.load_state_dict(torch.load(run / 'last.pth.tar', weights_only=False)['state_dict'])
    assert result['param_count'] == round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
    correct = 0
    loader = create_loader(
        create_dataset('', root=str(data), split='validation'),
        (3, 32, 32),
        8,
        device=torch.device('cpu'),
        num_workers=0,
        interpolation=result['interpolation'],
        crop_pct=result['crop_pct'],
        use_prefetcher=True,
        mean=model.pretrained_cfg['mean'],
        std=model.pretrained_cfg['std'],
    )
    with torch.no_grad():
        for x, target in loader:
            correct += (model.eval()(x).argmax(1) == target).sum().item()
    assert result['top1'] == round(100 * correct / 24, 4)


def test_averaged_weights_on_request(data, run, capsys):
    """Weights saved as the average and as the plain ones differ after two epochs at decay 0.99."""
    plain, averaged = (
        timm.models.load_state_dict(run / 'last.pth.tar', use_ema=use_ema)['fc.weight'] for use_ema in (False, True)
    )
    assert not torch.equal(plain, averaged)
    seen = []
    measure = validate.training.validate

    def watched(model, *args, **kwargs):
        seen.append(model.fc.weight.clone())
        return measure(model, *args, **kwargs)

    with mock.patch.object(validate.training, 'validate', watched):
        for flag in ('', '--use-ema'):
            run_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar {flag}', capsys)
    assert torch.equal(seen[0], plain) and torch.equal(seen[1], averaged)


@pytest.mark.parametrize('file_format', ['csv', 'json'])
def test_folder_of_checkpoints(file_format, data, run, tmp_path, capsys):
    path = tmp_path / f'results.{file_format}'
    results = run_validate(
        f'{data} {COMMON} --checkpoint {run} --results-file {path} --results-format {file_format}', capsys
    )
    assert {result['checkpoint'] for result in results} == {str(file) for file in run.glob('*.pth.tar')}
    assert [result['top1'] for result in results] == sorted((result['top1'] for result in results), reverse=True)
    written = json.loads(path.read_text()) if file_format == 'json' else list(csv.DictReader(path.open()))
    assert [row['checkpoint'] for row in written] == [result['checkpoint'] for result in results]


def test_damaged_checkpoint_in_a_folder_is_left_out(data, run, tmp_path, capsys):
    (tmp_path / 'good.pth.tar').write_bytes((run / 'last.pth.tar').read_bytes())
    (tmp_path / 'bad.pth.tar').write_bytes(b'damaged')
    results = run_validate(f'{data} {COMMON} --checkpoint {tmp_path}', capsys)
    assert [result['checkpoint'] for result in results] == [str(tmp_path / 'good.pth.tar')]


def test_averaged_scores_and_valid_labels(data, run, tmp_path, capsys):
    labels = tmp_path / 'labels.txt'
    labels.write_text('0\n1\n2\n')
    result = run_validate(
        f'{data} {COMMON} --checkpoint {run}/last.pth.tar --metrics-avg macro --valid-labels {labels}', capsys
    )
    assert list(result) == KEYS[:5] + ['macro_precision', 'macro_recall', 'macro_f1_score'] + KEYS[5:]
    assert result['macro_recall'] == pytest.approx(result['top1'], abs=1e-3)  # classes of equal size


def test_smaller_batches_while_memory_does_not_suffice(data, run, capsys):
    measure, sizes = validate.training.validate, []

    def too_large(model, loader, *args, **kwargs):
        sizes.append(loader.loader.batch_size)
        if loader.loader.batch_size > 4:
            raise RuntimeError('CUDA out of memory.')
        return measure(model, loader, *args, **kwargs)

    with mock.patch.object(validate.training, 'validate', too_large):
        result = run_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar --retry', capsys)
    assert 'top1' in result and sizes == sorted(sizes, reverse=True) and sizes[-1] <= 4


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--valid-labels {file}', ['--valid-labels', '0 to 2']),
        ('--results-file /no/such/folder/results.csv', ['--results-file']),
        ('--real-labels {file}', ['--real-labels']),
        ('--interpolation cubic', ['--interpolation cubic', 'bicubic']),
        ('--device banana', ['--device banana']),
        ('--analysis-dir /dev/null/out', ['--analysis-dir /dev/null/out']),
        ('--analysis-dir out --real-labels {file}', ['--analysis-dir', '--real-labels']),
    ],
)
def test_refuses(flags, words, data, run, tmp_path, capsys):
    (tmp_path / 'file').write_text('7\n')
    said = refuse_validate(
        f'{data} {COMMON} --checkpoint {run}/last.pth.tar ' + flags.format(file=tmp_path / 'file'), capsys
    )
    assert all(word in said for word in words)


def test_average_where_there_is_none_is_refused(data, run, tmp_path, capsys):
    """Stock judges the plain weights then, without a word."""
    plain = torch.load(run / 'last.pth.tar', weights_only=False)
    del plain['state_dict_ema']
    torch.save(plain, tmp_path / 'plain.pth.tar')
    said = refuse_validate(f'{data} {COMMON} --checkpoint {tmp_path}/plain.pth.tar --use-ema', capsys)
    assert '--use-ema' in said and 'plain.pth.tar' in said and '--model-ema' in said
    (tmp_path / 'last.pth.tar').write_bytes((run / 'last.pth.tar').read_bytes())
    results = run_validate(f'{data} {COMMON} --checkpoint {tmp_path} --use-ema', capsys)  # in a folder it is left out
    assert [result['checkpoint'] for result in results] == [str(tmp_path / 'last.pth.tar')]


@pytest.mark.parametrize('flag, export_flag', [('--use-ema', ()), ('', ('--no-ema',))])
def test_exported_files_are_judged_alike(flag, export_flag, data, run, tmp_path, capsys):
    wanted = run_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar {flag}', capsys)
    command.main(['timm', f'{run}/last.pth.tar', '--output', f'{tmp_path}/folder', *export_flag])
    command.main(['safetensors', f'{run}/last.pth.tar', '--output', f'{tmp_path}/test.safetensors', *export_flag])
    common = f'{data} --device cpu -j 0 -b 8'
    for flags in (
        f'{common} --model local-dir:{tmp_path}/folder',  # nothing else to say: classes and size are in the folder
        f'{common} --checkpoint {tmp_path}/folder',
        f'{data} {COMMON} --checkpoint {tmp_path}/test.safetensors',
    ):
        result = run_validate(flags, capsys)
        assert {**result, 'model': ''} == {**wanted, 'model': ''}
    results = run_validate(f'{data} {COMMON} --checkpoint {tmp_path}', capsys)  # a folder of safetensors files
    assert [result['top1'] for result in results] == [wanted['top1']]


@pytest.mark.parametrize('damage', ['model.safetensors', 'config.json'])
def test_damaged_export_is_one_sentence(damage, data, run, tmp_path, capsys):
    command.main(['timm', f'{run}/last.pth.tar', '--output', f'{tmp_path}/folder'])
    (tmp_path / 'folder' / damage).write_text('damaged')
    assert f'{tmp_path}/folder' in refuse_validate(f'{data} --device cpu -j 0 --checkpoint {tmp_path}/folder', capsys)
    (tmp_path / 'bad.safetensors').write_text('damaged')
    said = refuse_validate(f'{data} {COMMON} --checkpoint {tmp_path}/bad.safetensors', capsys)
    assert 'bad.safetensors' in said


def test_exported_folder_knows_its_channels(data, tmp_path, capsys):
    grey = run_train(f'{data} {TINY} --epochs 1 --in-chans 1', tmp_path)
    command.main(['timm', f'{grey}/last.pth.tar', '--output', f'{tmp_path}/folder'])
    wanted = run_validate(f'{data} {COMMON} --in-chans 1 --checkpoint {grey}/last.pth.tar', capsys)
    result = run_validate(f'{data} --device cpu -j 0 -b 8 --checkpoint {tmp_path}/folder', capsys)
    assert {**result, 'model': ''} == {**wanted, 'model': ''}
    said = refuse_validate(f'{data} --device cpu -j 0 --checkpoint {tmp_path}/folder --use-ema', capsys)
    assert '--use-ema' in said and 'exported' in said


def test_stock_checkpoint(data, tmp_path, capsys):
    """What timm's saver writes without arguments of a run."""
    torch.manual_seed(0)
    torch.save(
        {'state_dict': timm.create_model('test_resnet', num_classes=3).state_dict(), 'arch': 'resnet'},
        tmp_path / 'stock.pth.tar',
    )
    assert list(run_validate(f'{data} {COMMON} --checkpoint {tmp_path}/stock.pth.tar', capsys)) == KEYS


def test_analysis_changes_nothing_else(data, run, tmp_path, capsys):
    flags = f'{data} {COMMON} --checkpoint {run}/last.pth.tar'
    plain = run_validate(flags, capsys)
    assert run_validate(f'{flags} --analysis-dir {tmp_path}/out', capsys) == plain
    found = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
    assert {name: found[name] for name in KEYS} == plain
    assert [row['name'] for row in found['classes']] == ['class0', 'class1', 'class2']
    assert sum(row['accuracy'] for row in found['classes']) / 3 == pytest.approx(plain['top1'], abs=1e-3)
    assert [sum(images for true, _, images in found['confusion'] if true == label) for label in range(3)] == [8, 8, 8]


def test_analysis_of_a_folder_of_checkpoints(data, run, tmp_path, capsys):
    results = run_validate(f'{data} {COMMON} --checkpoint {run} --analysis-dir {tmp_path}/out', capsys)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {path.name for path in run.glob('*.pth.tar')}
    for result in results:
        name = result['checkpoint'].rsplit('/', 1)[1]
        assert json.loads((tmp_path / 'out' / name / 'analysis.json').read_text())['top1'] == result['top1']


def test_analysis_of_chosen_classes(data, run, tmp_path, capsys):
    labels = tmp_path / 'labels.txt'
    labels.write_text('2\n1\n0\n')
    run_validate(
        f'{data} {COMMON} --checkpoint {run}/last.pth.tar --valid-labels {labels} --analysis-dir {tmp_path}/out', capsys
    )
    assert len(json.loads((tmp_path / 'out' / 'analysis.json').read_text())['classes']) == 3


def test_a_stock_namespace_is_enough(data, run):
    """Another script may hand over arguments of stock's parser."""
    args = validate.parser.parse_args(f'{data} {COMMON} --checkpoint {run}/last.pth.tar'.split())
    del args.analysis_dir
    assert list(validate.validate(args)) == KEYS


@pytest.mark.parametrize('use_ema', ['', '--use-ema'])
def test_early_head_is_judged_alone(use_ema, data, tmp_path, capsys):
    run = run_train(f'{data} {TINY} --early-exit --early-exit-stage layer2 --model-ema --model-ema-decay 0.5', tmp_path)
    result = run_validate(f'{data} {COMMON} --checkpoint {run}/last.pth.tar --early-exit {use_ema}', capsys)
    assert list(result) == [*KEYS, 'early_exit'] and result['early_exit'] == 'layer2'
    checkpoint = torch.load(run / 'last.pth.tar', weights_only=False)
    suffix = '_ema' if use_ema else ''
    model = EarlyExit(timm.create_model('test_resnet', num_classes=3), stage='layer2')
    model.backbone.load_state_dict(checkpoint[f'state_dict{suffix}'])
    model.head.load_state_dict(checkpoint[f'task_state{suffix}']['early_exit'])
    classifier, correct = model.early_classifier().eval(), 0
    loader = create_loader(
        create_dataset('', root=str(data), split='validation'),
        (3, 32, 32),
        8,
        device=torch.device('cpu'),
        num_workers=0,
        interpolation=result['interpolation'],
        crop_pct=result['crop_pct'],
        mean=model.backbone.pretrained_cfg['mean'],
        std=model.backbone.pretrained_cfg['std'],
    )
    with torch.no_grad():
        for x, target in loader:
            correct += (classifier(x).argmax(1) == target).sum().item()
    assert result['top1'] == round(100 * correct / 24, 4)


def test_early_head_that_is_not_there(data, run, tmp_path, capsys):
    folder = tmp_path / 'folder'
    command.main(['timm', f'{run}/last.pth.tar', '--output', str(folder)])
    for held in (run / 'last.pth.tar', folder):
        assert 'train with --early-exit' in refuse_validate(f'{data} {COMMON} --checkpoint {held} --early-exit', capsys)
    assert "name the run's file with --checkpoint" in refuse_validate(f'{data} {COMMON} --early-exit', capsys)


def test_safetensors_file_judged_at_another_size_says_so(data, run, tmp_path, capsys, caplog):
    command.main(['safetensors', f'{run}/last.pth.tar', '--output', f'{tmp_path}/test.safetensors'])
    flags = f'{data} {COMMON} --checkpoint {tmp_path}/test.safetensors'
    run_validate(flags.replace('--img-size 32', '--img-size 40'), capsys)
    assert any('give --input-size 3 32 32' in message for message in caplog.messages)
    caplog.clear()
    run_validate(flags, capsys)
    assert not any('--input-size' in message for message in caplog.messages)


def test_folder_of_files_that_all_fail_is_no_success(data, run, tmp_path, capsys):
    torch.save({'state_dict': {'other.weight': torch.ones(1)}}, tmp_path / 'other.pth')
    said = refuse_validate(f'{data} {COMMON} --checkpoint {tmp_path}', capsys)
    assert 'None of these could be validated' in said


@pytest.mark.parametrize('error', [ValueError('other weights'), KeyboardInterrupt()])
def test_what_gives_no_result_leaves_the_file_of_others(error, data, run, tmp_path, capsys):
    rows = tmp_path / 'rows.csv'
    rows.write_text('model,top1\n')
    flags = f'{data} {COMMON} --checkpoint {run} --results-file {rows}'
    with mock.patch.object(validate, 'validate', side_effect=error), pytest.raises(type(error)):
        run_validate(flags, capsys)
    assert rows.read_text() == 'model,top1\n'


def test_ctrl_c_keeps_what_is_done(data, run, capsys):
    with mock.patch.object(validate, 'validate', side_effect=[dict(model='first', top1=1.0), KeyboardInterrupt]):
        (result,) = run_validate(f'{data} {COMMON} --checkpoint {run}', capsys)
    assert result['model'] == 'first'


def test_an_exported_folder_trains_on(data, run, tmp_path, capsys):
    folder = tmp_path / 'folder'
    command.main(['timm', f'{run}/last.pth.tar', '--output', str(folder)])
    flags = TINY.replace('--model test_resnet', f'--model local-dir:{folder} --pretrained')
    more = run_train(f'{data} {flags} --epochs 1 --keep-cut --keep-size 8', tmp_path)
    assert torch.load(more / 'last.pth.tar', weights_only=False)['epoch'] == 0
