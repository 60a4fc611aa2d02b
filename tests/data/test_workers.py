"""Loader workers that end, or cannot hand over what they made: always a sentence, never a wait without end."""

import os
import resource
import signal
import traceback

import pytest
import timm
import torch
from torch.utils.data import DataLoader

from keepaug.console.loader_errors import explain_loader
from keepaug.data.workers import report_failures
from tests.scripts import TINY, refuse_train, refuse_validate, write_images

pytestmark = pytest.mark.xdist_group('processes')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


def load(collate, begin=None) -> list:
    """Batches of one worker, waited for no longer than half a minute."""
    loader = DataLoader(range(4), 2, num_workers=1, collate_fn=collate, worker_init_fn=begin, timeout=30)
    return list(report_failures(loader))


def test_batches_come_as_ever():
    begun = torch.zeros(1).share_memory_()
    assert load(list, begun.fill_) == [[0, 1], [2, 3]]
    assert load(sum, lambda worker: begun.fill_(worker + 7)) == [1, 5] and begun.item() == 7


def test_what_cannot_be_sent_is_told():
    with pytest.raises(TypeError, match="(?s)in DataLoader worker process 0.*cannot pickle 'generator' object"):
        load(lambda numbers: (number for number in numbers))


def _limit_files(*args, **kwargs) -> None:
    """As if shared memory were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_full_shared_memory_is_told():
    with pytest.raises(RuntimeError, match='File too large') as raised:
        load(lambda numbers: torch.zeros(1000), _limit_files)
    assert 'no room in shared memory for their batches (File too large): give it more' in explain_loader(raised.value)
    traceback.clear_frames(raised.tb)  # ends the worker


NO_ROOM = 'error: Loader workers have no room in shared memory for their batches (File too large)'


@pytest.mark.parametrize(
    'flags',
    [
        '',
        '--no-prefetcher',
        '--use-multi-epochs-loader',
        '--exact-resume',
        '--model test_vit --model-kwargs use_naflex=True --naflex-loader',
    ],
)
def test_full_shared_memory_ends_a_run(flags, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('timm.data.loader._worker_init', _limit_files)
    if 'naflex' in flags:
        monkeypatch.setattr('timm.data.naflex_loader._worker_init', _limit_files)
    assert NO_ROOM in refuse_train(f'{data} {TINY} -j 1 {flags}', tmp_path, capsys)


def test_full_shared_memory_ends_a_validation(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('timm.data.loader._worker_init', _limit_files)
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path / 'weights.pth')
    said = refuse_validate(
        f'{data} --model test_resnet --num-classes 3 --checkpoint {tmp_path}/weights.pth --device cpu -j 1 '
        '--img-size 32',
        capsys,
    )
    assert NO_ROOM in said


def test_a_killed_worker_ends_a_run_in_a_sentence(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('timm.data.loader._worker_init', lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
    said = refuse_train(f'{data} {TINY} -j 1', tmp_path, capsys)
    assert 'error: Loader worker ' in said and 'memory' in said and '-j' in said


def killed(signal_name: str) -> RuntimeError:
    return RuntimeError(f'DataLoader worker (pid 7) is killed by signal: {signal_name}. ')


@pytest.mark.parametrize(
    'error, words',
    [
        (
            killed('Killed'),
            'Loader worker 7 was killed, most likely because memory ran out: use fewer workers with -j',
        ),
        (killed('Segmentation fault'), 'Loader worker 7 was ended by a signal (Segmentation fault): -j 0 shows'),
        (killed('Bus error'), 'no room in shared memory'),
        (RuntimeError('DataLoader worker (pid(s) 7, 8) exited unexpectedly'), 'Loader worker 7, 8 ended unexpectedly'),
        (
            RuntimeError('unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)'),
            'ulimit -n',
        ),
    ],
)
def test_sentences(error, words):
    assert words in explain_loader(error)
    try:
        try:
            raise error
        except RuntimeError as first:
            raise OSError('No checkpoint can be written.') from first
    except OSError as wrong:
        assert words in explain_loader(wrong), 'also where it was taken for something else'


def test_what_says_more_counts():
    error = RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly')
    error.__cause__ = killed('Killed')
    assert 'was killed' in explain_loader(error)


def test_other_errors_are_others():
    for error in (RuntimeError('expected scalar type Float'), ValueError('--lr 0'), OSError(28, 'No space left')):
        assert explain_loader(error) == ''
