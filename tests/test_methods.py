"""What is known of a method stands in one object; the documentation's example, registered, is known everywhere."""

import argparse
import inspect
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.task import ClassificationTask

import keepaug
import train
from keepaug import methods, options, preview
from keepaug.augment import registry
from tests import test_combinations
from tests.scripts import TINY, run_train, run_validate
from tests.sentences import says

PAGE = Path(__file__).parents[1] / 'docs' / 'adding-a-method.md'


def test_every_augment_has_its_method():
    builders = [name for method in methods.all_methods() for name in method.augments]
    assert sorted(builders) == keepaug.list_augments()


@pytest.mark.parametrize('method', methods.all_methods(), ids=lambda method: method.name)
def test_its_example_turns_it_on(method):
    args = keepaug.prepare(options.create_parser().parse_args(['data', *method.example.split()]))
    assert method in methods.active_methods(args)
    assert method not in methods.active_methods(keepaug.prepare(options.create_parser().parse_args(['data'])))


@pytest.mark.parametrize('method', methods.all_methods(), ids=lambda method: method.name)
def test_its_flags_set_what_they_say(method):
    """A hyper-parameter that a flag names is one of the augmentation that the method builds."""
    for name in method.augments:
        kinds = [kind for kind in registry._AUGMENTS[name].__mro__ if '__init__' in vars(kind)]
        taken = {parameter for kind in kinds for parameter in inspect.signature(kind).parameters}
        assert {flag.parameter for flag in method.flags if flag.parameter} <= taken


def test_names_are_taken_once():
    with pytest.raises(ValueError, match='keep-cut.*already registered'):
        methods.register_method(methods.method_of('keep-cut'))
    with pytest.raises(ValueError, match="no method 'nobody'"):
        methods.register_method(methods.Method(), after='nobody')


@pytest.fixture
def dim(monkeypatch):
    """The method that the documentation shows, from its very words."""
    code = re.search(r'```python\n(# dim\.py\n.*?)```', PAGE.read_text(), re.DOTALL)[1]
    exec(compile(code, 'dim.py', 'exec'), {})
    monkeypatch.setattr(train, 'parser', options.create_parser())
    yield methods.method_of('dim')
    methods.unregister_method('dim')
    del registry._AUGMENTS['dim']


def refused(line: str) -> str:
    with pytest.raises(ValueError) as error:
        keepaug.prepare(options.create_parser().parse_args(['data', *line.split()]))
    return str(error.value)


def test_flags_and_refusals(dim):
    parser = options.create_parser()
    assert '--dim' in parser.format_help() and dim.title in parser.format_help()
    assert parser.parse_args(['--dim', 'data']).dim == 8
    assert keepaug.prepare(parser.parse_args(['data'])).dim is None
    says(refused('--dim 0'), '--dim 0', 'at least 1 pixel')
    says(refused('--dim --cutout'), '--dim', '--cutout')
    says(refused('--dim --naflex-loader'), '--dim', '--naflex-loader')
    says(refused('--dim --aug-splits 2'), '--dim', '--aug-splits 2')


def test_its_place_in_the_batch(dim):
    args = keepaug.prepare(
        options.create_parser().parse_args(
            ['data', *TINY.split(), *'--dim 5 --joint-occlusion --cutmix 1 --keep-cut'.split()]
        )
    )
    task = ClassificationTask(timm.create_model('test_resnet', num_classes=3), verbose=False)
    augments = keepaug.wrap_task(task, args).augment.augments
    assert [augment.name for augment in augments] == ['keep-cut', 'dim', 'cutmix', 'joint-occlusion']
    assert augments[1].size == 5
    with pytest.raises(ValueError, match='^--dim must be at most 160 .* got 170'):
        keepaug.wrap_task(task, keepaug.prepare(options.create_parser().parse_args(['data', '--dim', '170'])))


@pytest.mark.xdist_group('combinations')
def test_its_row_in_the_table_of_combinations(dim):
    table = test_combinations.table()
    assert '| dim | `--dim` |' in table
    assert '--dim needs images, but --naflex-loader makes batches of patches' in table


def test_run_preview_and_replay(dim, data, tmp_path, caplog, capsys, monkeypatch):
    """Its line in the log, its weights in a run, its picture and its share, and its images in a replay."""
    with caplog.at_level('INFO', logger='train'):
        run = run_train(f'{data} {TINY} --epochs 1 --dim 20', tmp_path)
    assert re.search(r'\n +dim +20 x 20 px, to half, on the device', caplog.text)

    monkeypatch.setattr(preview, 'setup_default_logging', lambda: None)
    sheet = tmp_path / 'sheet.png'
    preview.main([str(data), *TINY.split(), '--dim', '20', '--preview-output', str(sheet)])
    assert sheet.exists() and re.search(r'Dim +│ dimmed', capsys.readouterr().out)

    def risk(run):
        found = run_validate(
            f'{data} --model test_resnet --num-classes 3 --img-size 32 --device cpu -j 0 -b 8 --split train '
            f'--checkpoint {run}/last.pth.tar --evaluate risk',
            capsys,
        )
        return found['risk_augmented']

    checkpoint = torch.load(run / 'last.pth.tar', weights_only=False)
    assert checkpoint['args'].dim == 20
    checkpoint['args'].dim = None
    (tmp_path / 'plain').mkdir()
    torch.save(checkpoint, tmp_path / 'plain' / 'last.pth.tar')
    assert risk(run) != risk(tmp_path / 'plain')


@pytest.mark.parametrize(
    'values',
    [
        dict(keep_cut=True, reprob=0.2),
        dict(keep_cut='erase', reprob=0.2),
        dict(keep_cut='cutmix', mixup=0.2),
        dict(joint_occlusion=True, cutmix=1.0),
        dict(keep_paste=True, aa='rand-m9', keep_saliency='early'),
        dict(manifold_mixup=True),
        dict(cutout=True, mixup=0.3),
    ],
    ids=str,
)
def test_plain_namespaces_are_completed(values):
    """Whoever's options they are: what `prepare` returns is all that the seams need."""
    args = keepaug.prepare(argparse.Namespace(num_classes=3, img_size=32, **values))
    model = timm.create_model('test_resnet', num_classes=3)
    task = keepaug.wrap_task(ClassificationTask(model, verbose=False), args)
    task.train()
    rows = 4 * task.rows_per_sample
    loss = task(torch.randn(rows, 3, 32, 32), (torch.arange(rows) % (rows // 2)) % 3)['loss']
    assert loss.isfinite()


@pytest.mark.parametrize('method', methods.all_methods(), ids=lambda method: method.name)
def test_defaults_are_those_of_the_augmentation(method):
    for name in method.augments:
        signature = inspect.signature(registry._AUGMENTS[name]).parameters
        for flag in method.settings:
            default = signature[flag.parameter].default if flag.parameter in signature else None
            assert default is None or flag.unset is None or default == flag.unset
