"""`--epoch-repeats` on folders: an epoch goes through the training set several times."""

import pytest

from keepaug.data.wrapped import Repeated
from tests.scripts import TINY, run_train


@pytest.mark.parametrize('times, length', [(2, 10), (3.0, 15), (1.5, 8), (1.1, 6)])
def test_repeated(times, length):
    dataset = Repeated(list('abcde'), times)
    assert len(dataset) == length
    assert ''.join(dataset[i] for i in range(length)) == ('abcde' * 3)[:length]


@pytest.mark.parametrize('repeats, updates', [('', 3), ('--epoch-repeats 1', 3), ('--epoch-repeats 2', 6)])
def test_an_epoch_has_as_many_updates(repeats, updates, data, tmp_path, caplog):
    caplog.set_level('INFO')
    run_train(f'{data} {TINY} --epochs 1 {repeats} --exact-resume --sched step --decay-epochs 1', tmp_path)
    assert f'{updates - 1}/{updates} (100%)' in caplog.text
