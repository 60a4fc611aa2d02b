"""Data sets of other readers: streams through the whole script, and a sentence where their package is missing."""

import importlib.util

import pytest

import keepaug.data.sets
from tests.readers import create_stream
from tests.scripts import TINY, refuse_train, run_train

PACKAGES = {'hfds': 'datasets', 'hfids': 'datasets', 'tfds': 'tensorflow_datasets', 'wds': 'webdataset'}


@pytest.mark.parametrize('reader, package', PACKAGES.items())
def test_missing_packages_are_named(reader, package, tmp_path, capsys):
    if importlib.util.find_spec(package):
        pytest.skip(f'{package} is installed')
    said = refuse_train(f'{tmp_path} {TINY} --dataset {reader}/some', tmp_path, capsys)
    assert f'--dataset {reader}/some' in said and f'pip install {package}' in said
    assert not (tmp_path / 'run').exists()


@pytest.fixture
def readers(monkeypatch):
    made = []

    def create(name, root=None, **kwargs):
        dataset = create_stream(name, root)
        made.append((dataset.reader, kwargs))
        return dataset

    monkeypatch.setattr(keepaug.data.sets, 'create_dataset', create)
    return made


@pytest.mark.parametrize(
    'flags',
    [
        '',
        '--no-prefetcher',
        '--mixup 0.2',
        '--keep-cut --cutmix 1',
        '--cutout 8',
        '-j 1',
        '--train-crop-mode pad4',
        '--keep-paste --aa rand-m9-mstd0.5',
    ],
)
def test_streams_train(flags, readers, tmp_path):
    run = run_train(f'{TINY} --dataset wds/fixture {flags} --epoch-repeats 2', tmp_path)
    assert len((run / 'summary.csv').read_text().splitlines()) == 3
    (train, kwargs), (_, eval_kwargs) = readers
    assert train.epochs == [0, 1]
    assert kwargs['is_training'] and kwargs['repeats'] == 2 and kwargs['batch_size'] == 8
    assert not eval_kwargs['is_training'] and 'repeats' not in eval_kwargs


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--train-img-sizes 32 48', ['--train-img-sizes', 'wds/fixture']),
        ('--aug-splits 2 --jsd-loss', ['--aug-splits 2', 'wds/fixture']),
        ('--naflex-loader', ['--naflex-loader', 'wds/fixture']),
    ],
)
def test_what_needs_random_access_is_refused(flags, words, readers, tmp_path, capsys):
    said = refuse_train(f'{TINY} --dataset wds/fixture {flags}', tmp_path, capsys)
    assert all(word in said for word in words), said
