"""TensorBoard beside a run: what is written, and that the run stays the one it is without."""

import csv
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import timm.utils.summary
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keepaug.data.sets
from keepaug.augment import create_augment
from keepaug.measuring.regions import Step, saliency_kept
from keepaug.methods import method_of
from keepaug.record.tensorboard import TensorBoard
from tests.readers import create_several_labels, create_stream
from tests.scripts import TINY, await_next_second, refuse_train, run_train

METHODS = {
    'mixing': '--keep-cut cutmix --mixup 0.2 --drop 0.1',
    'paste': '--keep-paste --aa rand-m9 --keep-size 8 --keep-saliency low-early',
    'attentive': '--attentive-cutmix --attentive-teacher self --attentive-teacher-size 64',
    'occlusion': '--joint-occlusion --refine-epochs 1 --risk-samples 8',
    'stock': '--mixup 0.2',
    'workers': '--keep-cut --keep-size 8 -j 2 --use-multi-epochs-loader',
    'plain-loader': '--keep-cut --keep-size 8 --no-prefetcher --amp --amp-dtype bfloat16 --channels-last --model-ema',
    'splits': '--aug-splits 2 --jsd-loss',
    'sizes': '--train-img-sizes 32 48',
    'scripted': '--torchscript',
    'naflex': '--model test_vit --model-kwargs use_naflex=True --naflex-loader --naflex-train-seq-lens 4',
    'several-labels': '--task multilabel --dataset hfds/fixture',
    'stream': '--dataset wds/fixture --train-num-samples 24 --val-num-samples 24',
}
SALIENCY_KEPT = ('mixing', 'paste', 'attentive', 'occlusion', 'workers', 'plain-loader')
SLOW = ('workers', 'sizes', 'scripted', 'naflex')
READERS = {'several-labels': create_several_labels, 'stream': create_stream}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in METHODS]
)
def test_writes_numbers_and_sheets_and_changes_nothing(name, data, tmp_path, monkeypatch, caplog):
    if name in READERS:
        monkeypatch.setattr(keepaug.data.sets, 'create_dataset', READERS[name])
    flags = f'{"" if name in READERS else data} {TINY} {METHODS[name]}'
    plain = run_train(flags, tmp_path, 'plain')
    with caplog.at_level('INFO', logger='train'):
        watched = run_train(f'{flags} --log-tensorboard', tmp_path, 'watched')
    rows = [read_summary(run) for run in (plain, watched)]
    in_row = [row.pop('saliency_kept', None) for row in rows[1]]
    assert rows[0] == rows[1]
    states = [torch.load(run / 'last.pth.tar', weights_only=False)['state_dict'] for run in (plain, watched)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not list(plain.glob('events*'))

    events = EventAccumulator(str(watched)).Reload()
    scalars, images = events.Tags()['scalars'], events.Tags()['images']
    epochs = list(range(3 if 'refine' in METHODS[name] else 2))
    assert {'train_loss', 'eval_loss', 'lr', 'images_per_second'} <= set(scalars)
    assert [event.step for event in events.Scalars('eval_loss')] == epochs
    assert all(event.value > 0 for event in events.Scalars('images_per_second'))
    clean = {'several-labels': 'clean_train_map', 'stream': None}.get(name, 'clean_train_top1')
    if clean:
        assert [event.step for event in events.Scalars(clean)] == epochs
        assert all(0 <= event.value <= 100 for event in events.Scalars(clean))
    assert ('left out' in caplog.text) == (clean is None)
    assert ('no sheet' in caplog.text) == (name not in SALIENCY_KEPT)

    kept = name in SALIENCY_KEPT
    assert [scalar for scalar in scalars if 'saliency' in scalar] == ['saliency_kept'] * kept
    assert images == ['augmentations'] * kept
    if kept:
        logged = {event.step: event.value for event in events.Scalars('saliency_kept')}
        assert all(0 < value < 1 for value in logged.values())
        assert {epoch: float(value) for epoch, value in enumerate(in_row) if value} == pytest.approx(logged, rel=1e-5)
        assert len(events.Images('augmentations')) == len(epochs)
    else:
        assert in_row == [None] * len(epochs), "stock's columns"
    if name == 'occlusion':
        assert {'risk_augmented', 'risk_clean'} <= set(scalars)


@pytest.fixture
def wandb(monkeypatch):
    rows = []
    module = SimpleNamespace(init=lambda **kwargs: None, log=rows.append, Image=lambda pixels: pixels)
    monkeypatch.setitem(sys.modules, 'wandb', module)
    monkeypatch.setattr(timm.utils.summary, 'wandb', module, raising=False)
    return rows


@pytest.mark.parametrize('risk', ['', '--risk-samples 8'])
def test_wandb_gets_the_same(risk, data, tmp_path, wandb):
    run = run_train(f'{data} {TINY} --keep-cut --keep-size 8 --log-tensorboard --log-wandb {risk}', tmp_path)
    events = EventAccumulator(str(run)).Reload()
    assert [row['epoch'] for row in wandb] == [0, 1], 'one step an epoch'
    for epoch, row in enumerate(wandb):
        sheet = row.pop('augmentations')
        assert sheet.ndim == 3 and sheet.dtype == 'uint8'
        numbers = {name: events.Scalars(name)[epoch].value for name in events.Tags()['scalars']}
        assert row.pop('phase', '') == ('augmented' if risk else '') and row.pop('epoch') == epoch
        assert row == pytest.approx(numbers)
    assert {'train_loss', 'eval_top1', 'lr', 'clean_train_top1', 'images_per_second', 'saliency_kept'} <= set(wandb[0])


def test_resumed_run_has_each_epoch_once(data, tmp_path):
    """A run may be killed after an epoch's numbers are logged and before its checkpoint is whole; so is this one."""
    flags = f'{data} {TINY} --epochs 3 --keep-cut --keep-size 8 --log-tensorboard --watch-samples 0'
    run_train(f'{flags} --stop-epoch 1', tmp_path)
    first = (tmp_path / 'run' / 'last.pth.tar').read_bytes()
    await_next_second()
    run_train(f'{flags} --stop-epoch 2 --resume auto', tmp_path)
    (tmp_path / 'run' / 'last.pth.tar').write_bytes(first)
    await_next_second()
    events = EventAccumulator(str(run_train(f'{flags} --resume auto', tmp_path)), {}).Reload()
    for held in (events.Scalars('train_loss'), events.Images('augmentations')):
        assert [event.step for event in held] == [0, 1, 2]


def test_what_is_drawn_once_for_a_batch_falls_both_ways(data, tmp_path):
    """Over the epochs mixup is shown, of which no share can be told, and CutMix, of which one can."""
    run = run_train(
        f'{data} {TINY} --epochs 8 --keep-cut cutmix --mixup 0.2 --keep-paste --aa rand-m9 --keep-size 8 '
        '--log-tensorboard --watch-samples 0',
        tmp_path,
    )
    assert 1 < len(EventAccumulator(str(run)).Reload().Scalars('saliency_kept')) < 8


def test_no_clean_images_where_none_are_wanted(data, tmp_path):
    run = run_train(f'{data} {TINY} --epochs 1 --log-tensorboard --watch-samples 0', tmp_path)
    assert not any('clean' in name for name in EventAccumulator(str(run)).Reload().Tags()['scalars'])


def test_saliency_kept_of_a_hand_drawn_case():
    """The left half of three images is salient; a policy changes all but their upper half, and then columns are cut."""
    judge = torch.zeros(3, 1, 4, 4)
    judge[..., :2] = 1.0
    pasted, cut = torch.zeros(2, 3, 1, 4, 4, dtype=torch.bool)
    pasted[:, :, :2] = True
    cut[0, ..., 0] = True
    cut[1, ..., 3] = True  # the third is blended with another image

    def step(name, **drawn):
        x = torch.zeros(3, 3, 4, 4)
        augment = create_augment('cutout', size=2)
        return Step(augment, method_of(name), (torch.cat([x, x]), torch.zeros(6)), drawn, judge, x)

    lam = torch.tensor([0.75, 0.75, 0.4], dtype=torch.float64)
    paste, mix = step('keep-paste', mask=pasted), step('keep-cut', mask=cut, lam=lam)
    assert saliency_kept([paste], None) == pytest.approx(1 / 2)
    assert saliency_kept([mix], None) == pytest.approx((1 / 2 + 1) / 2), 'not the third'
    assert saliency_kept([paste, mix], None) == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert saliency_kept([step('mixup', lam=lam)], None) is None


def read_summary(run) -> list[dict[str, str]]:
    with open(run / 'summary.csv') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    'flags, said',
    [
        ('--watch-samples 9', '--watch-samples 9 has no effect without --log-tensorboard'),
        ('--log-tensorboard --watch-samples -1', '--watch-samples must be at least 0'),
    ],
)
def test_refusals(flags, said, data, tmp_path, capsys):
    assert said in refuse_train(f'{data} {TINY} {flags}', tmp_path, capsys)


def test_an_error_without_a_number_is_told_by_its_text(tmp_path):
    sink = TensorBoard(str(tmp_path), start_epoch=0)
    sink.writer.close()
    sink.writer = SimpleNamespace(flush=mock.Mock(side_effect=OSError('the share is gone')))
    with pytest.raises(OSError, match='the share is gone'):
        sink.write({'epoch': 0}, {}, {})
