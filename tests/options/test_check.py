"""`--check` on a machine that is not the one the run is for."""

import pytest
import torch

from tests.scripts import TINY, refuse_train, run_train


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without CUDA')
def test_the_rest_is_checked_without_the_device(data, tmp_path, caplog, capsys):
    flags = f'{data} {TINY.replace("--device cpu", "--device cuda")}'
    assert '--device cuda is not available to torch here: say --device cpu' in refuse_train(flags, tmp_path, capsys)
    with caplog.at_level('INFO', 'train'):
        run_train(f'{flags} --check', tmp_path)
    assert '--device cuda is not available to torch here. The rest is checked.' in caplog.text
    assert 'The flags fit together.' in caplog.text
    assert '--opt nosuch' in refuse_train(f'{flags} --check --opt nosuch', tmp_path, capsys)
