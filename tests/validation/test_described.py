"""A checkpoint that says of which model it is need not be told again; what is typed wins, no word is trusted."""

from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch

import validate
from keepaug.options import complete_validation, typed_options
from keepaug.validation.model import _compare_images
from keepaug.validation.runs import choose_runs
from tests.scripts import refuse_validate, run_validate

WRITTEN = Path(__file__).parents[1] / 'fixtures' / 'v0_1_0' / 'plain' / 'last.pth.tar'
HERE = '--device cpu -j 0 -b 8'


def write(path: Path, model: str = 'test_resnet', described: bool = True, **args) -> Path:
    """A checkpoint as a run of a model with three classes writes it."""
    torch.manual_seed(0)
    built = {name: args[name] for name in ('in_chans',) if name in args}
    if 'img_size' in args and 'vit' in model:
        built['img_size'] = args['img_size']
    weights = timm.create_model(model, num_classes=3, **built).state_dict()
    recorded = dict(arch=model, args=Namespace(**{'model': model, 'num_classes': 3, **args})) if described else {}
    torch.save({'state_dict': weights, **recorded}, path)
    return path


def chosen(flags: str) -> list[dict]:
    words = flags.split()
    args = complete_validation(validate.parser.parse_args(words))
    args.typed = typed_options(validate.parser, words)
    return choose_runs(args)


def test_a_run_is_judged_as_what_it_is(data, capsys, caplog):
    typed = '--model resnet10t --model-kwargs channels=(8,8,8,8) stem_width=4 --num-classes 3'
    alone = run_validate(f'{data} {HERE} --img-size 32 --checkpoint {WRITTEN}', capsys)
    assert alone == run_validate(f'{data} {HERE} --img-size 32 {typed} --checkpoint {WRITTEN}', capsys)
    assert alone['model'] == 'resnet10t' and not isinstance(alone, list)


def test_what_is_typed_wins(data, tmp_path, capsys):
    path = write(tmp_path / 'last.pth.tar', gp='max')
    (run,) = chosen(f'{data} --checkpoint {path}')
    assert (run['model'], run['num_classes'], run['gp'], run['model_kwargs']) == ('test_resnet', 3, 'max', {})
    (run,) = chosen(f'{data} --checkpoint {path} --model test_resnet --num-classes 5 --gp avg --model-kwargs a=1')
    assert not {'model', 'num_classes', 'gp', 'model_kwargs'} & run.keys()
    assert chosen(f'{data} --checkpoint {path} --model test_vit') == [dict(label='last.pth.tar')]
    said = refuse_validate(f'{data} {HERE} --model dpn92 --checkpoint {path}', capsys)  # which is the default, too
    assert f'--checkpoint {path} in --model dpn92 cannot be loaded' in said and 'the default' not in said


def test_weights_alone_are_stocks_default(data, tmp_path, capsys):
    path = write(tmp_path / 'weights.pth', described=False)
    said = refuse_validate(f'{data} {HERE} --checkpoint {path}', capsys)
    assert 'in --model dpn92 cannot be loaded' in said and 'does not name its model: give --model' in said


def test_a_model_of_one_size_is_built_for_the_size_of_its_run(data, tmp_path, capsys, caplog):
    path = write(tmp_path / 'last.pth.tar', 'test_vit', img_size=32)
    found = run_validate(f'{data} {HERE} --checkpoint {path}', capsys)
    assert (found['model'], found['img_size']) == ('test_vit', 32)


def test_size_and_crop_stay_stocks_and_a_difference_is_said(data, tmp_path, capsys, caplog):
    path = write(tmp_path / 'last.pth.tar', img_size=32, mean=(0.1, 0.2, 0.3), crop_pct=0.5)
    found = run_validate(f'{data} {HERE} --checkpoint {path}', capsys)
    assert found['img_size'] == 160 and found['crop_pct'] != 0.5
    said = ' '.join(caplog.messages)
    assert f'{path} was trained on images of (3, 32, 32)' in said and 'give --input-size 3 32 32' in said
    assert 'give --mean 0.1 0.2 0.3 for that of the run' in said and 'give --crop-pct 0.5 for that of the run' in said
    caplog.clear()
    run_validate(f'{data} {HERE} --checkpoint {path} --input-size 3 32 32 --mean 0.1 0.2 0.3 --crop-pct 0.5', capsys)
    assert 'of the run' not in ' '.join(caplog.messages)


def test_each_file_of_a_folder_and_of_a_comparison_describes_itself(data, tmp_path):
    first = write(tmp_path / 'a.pth.tar')
    second = write(tmp_path / 'b.pth.tar', 'test_vit', img_size=32)
    (tmp_path / 'c.pth.tar').write_bytes(b'damaged')  # which its own turn tells
    runs = chosen(f'{data} --checkpoint {tmp_path}')
    assert [run['model'] for run in runs] == ['test_resnet', 'test_vit', 'dpn92']
    grey = write(tmp_path / 'grey.pth', in_chans=1, model_kwargs=dict(act_layer='relu'))
    runs = chosen(f'{data} --checkpoint {grey} --compare {second} {first}')
    assert [(run['model'], run['model_kwargs']) for run in runs] == [
        ('test_resnet', {'act_layer': 'relu'}),
        ('test_vit', {}),
        ('test_resnet', {}),
    ]
    assert [run.get('in_chans') for run in runs] == [1, None, None]


@pytest.mark.parametrize(
    'args, said',
    [
        (
            dict(model='local-dir:/etc'),
            'names the model local-dir:/etc, which timm does not know',
        ),
        (dict(model='hf-hub:a/b'), 'names the model hf-hub:a/b'),
        (dict(model=5), 'is refused: it holds 5 as model'),
        (dict(num_classes=-1), 'is refused: it holds -1 as num_classes'),
        (dict(num_classes=10**12), 'as num_classes'),
        (dict(img_size=10**6), 'as img_size'),
        (dict(mean=('a',)), 'as mean'),
        (dict(model_kwargs=[1]), 'as model_kwargs'),
        (dict(model_kwargs={'checkpoint_path': '/etc/passwd'}), 'it gives checkpoint_path'),
        (dict(model_kwargs={'layers': [10**6] * 4}), 'is refused'),
    ],
)
def test_nothing_that_a_file_says_is_taken_unchecked(args, said, data, tmp_path, capsys):
    path = write(tmp_path / 'last.pth.tar')
    held = torch.load(path, weights_only=False)
    vars(held['args']).update(args)
    torch.save(held, path)
    assert said in refuse_validate(f'{data} {HERE} --checkpoint {path}', capsys)


def test_one_number_of_a_run_stands_for_every_channel(caplog):
    here = {
        'input_size': (3, 40, 40),
        'mean': (0.5,) * 3,
        'std': (0.5,) * 3,
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
    }
    _compare_images({'mean': [0.5], 'std': [0.4]}, here, 'last.pth.tar')
    assert '--std 0.4' in caplog.text and '--mean' not in caplog.text
