"""TensorBoard beside a run: what is written, and that the run stays the one it is without."""
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.scripts import TINY, run_train, write_images

METHODS = {
    'mixing': '--keep-cut cutmix --mixup 0.2 --drop 0.1',
    'paste': '--keep-paste --aa rand-m9 --keep-size 8 --keep-saliency low-early',
    'attentive': '--attentive-cutmix --attentive-teacher self --attentive-teacher-size 64',
    'occlusion': '--joint-occlusion --refine-epochs 1 --risk-samples 8',
    'stock': '--mixup 0.2',
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.mark.parametrize('name', METHODS)
def test_writes_numbers_and_sheets_and_changes_nothing(name, data, tmp_path):
    flags = f'{data} {TINY} {METHODS[name]}'
    plain = run_train(flags, tmp_path, 'plain')
    watched = run_train(f'{flags} --log-tensorboard', tmp_path, 'watched')
    assert (plain / 'summary.csv').read_text() == (watched / 'summary.csv').read_text()
    states = [torch.load(run / 'last.pth.tar', weights_only=False)['state_dict'] for run in (plain, watched)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not list(plain.glob('events*'))

    events = EventAccumulator(str(watched)).Reload()
    epochs = 3 if 'refine' in METHODS[name] else 2
    assert [event.step for event in events.Scalars('eval_top1')] == list(range(epochs))
    assert {'train_loss', 'eval_loss', 'lr'} <= set(events.Tags()['scalars'])
    assert len(events.Images('augmentations') if name != 'stock' else []) == (epochs if name != 'stock' else 0)
    if name == 'occlusion':
        assert {'risk_augmented', 'risk_clean'} <= set(events.Tags()['scalars'])
    if name == 'paste':
        assert 0 < events.Scalars('saliency put back/KeepPaste')[0].value < 1
