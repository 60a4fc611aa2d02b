"""What newer releases of timm's script can do: resume in place, stop, milestones, several labels per image, losses."""

import json

import pytest
import timm
import torch
import yaml
from timm.task import MultiLabelClassificationTask

import keepaug.data.sets
import validate
from tests.readers import SeveralLabels, create_several_labels
from tests.scripts import TINY, refuse_train, refuse_validate, run_train


def epochs_in_summary(run) -> list[int]:
    header, *rows = (run / 'summary.csv').read_text().splitlines()
    assert header.startswith('epoch,')
    return [int(row.split(',')[0]) for row in rows]


def epoch_of(path) -> int:
    return torch.load(path, weights_only=False)['epoch']


def test_stop_and_milestones(data, tmp_path):
    run = run_train(f'{data} {TINY} --epochs 4 --stop-epoch 2 --save-epochs 1 2 --val-interval 2', tmp_path)
    assert epochs_in_summary(run) == [0, 1]  # a milestone and the last epoch are validated, whatever the interval
    assert [epoch_of(run / f'milestone-{n}.pth.tar') for n in (1, 2)] == [0, 1]
    assert epoch_of(run / 'last.pth.tar') == 1
    recorded = yaml.safe_load((run / 'args.yaml').read_text())
    assert (recorded['epochs'], recorded['stop_epoch'], recorded['save_epochs']) == (4, 2, [1, 2])


def test_stopping_keeps_the_schedule(data, tmp_path):
    def rates(run):
        return [row.split(',')[-1] for row in (run / 'summary.csv').read_text().splitlines()]

    whole = run_train(f'{data} {TINY} --epochs 3', tmp_path, 'whole')
    stopped = run_train(f'{data} {TINY} --epochs 3 --stop-epoch 2', tmp_path, 'stopped')
    assert rates(stopped) == rates(whole)[:3]


def test_stop_beyond_the_end(data, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --epochs 2 --stop-epoch 3', tmp_path, capsys)
    assert '--stop-epoch 3' in said and '2 epochs' in said
    assert not (tmp_path / 'run').exists()


def test_resume_auto_goes_on_in_place(data, tmp_path, caplog):
    flags = f'{data} {TINY} --epochs 4 --checkpoint-hist 2 --resume auto'
    run = run_train(f'{flags} --stop-epoch 2', tmp_path)  # nothing there yet: a fresh run
    assert epochs_in_summary(run) == [0, 1]
    run_train(flags, tmp_path)
    assert epochs_in_summary(run) == [0, 1, 2, 3] and epoch_of(run / 'last.pth.tar') == 3
    assert len(list(run.glob('checkpoint-*.pth.tar'))) == 2
    rows = [row.split(',') for row in (run / 'summary.csv').read_text().splitlines()]
    top1 = [float(row[rows[0].index('eval_top1')]) for row in rows[1:]]
    assert epoch_of(run / 'model_best.pth.tar') == top1.index(max(top1))
    assert yaml.safe_load((run / 'args.yaml').read_text())['resume'] == 'auto'

    before = (run / 'last.pth.tar').stat().st_mtime_ns, (run / 'summary.csv').read_bytes()
    with caplog.at_level('INFO', 'train'):
        run_train(flags, tmp_path)
    assert any('Nothing to do: 4 epochs are done' in message for message in caplog.messages)
    assert before == ((run / 'last.pth.tar').stat().st_mtime_ns, (run / 'summary.csv').read_bytes())


def test_resume_auto_needs_a_name(data, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --resume auto', tmp_path, capsys, experiment='')
    assert '--resume auto' in said and '--experiment' in said


def test_a_fresh_run_starts_the_summary_anew(data, tmp_path):
    run = run_train(f'{data} {TINY} --epochs 2', tmp_path)
    run_train(f'{data} {TINY} --epochs 1', tmp_path)
    assert epochs_in_summary(run) == [0]


@pytest.mark.parametrize(
    'flags, rates',
    [
        # Worked out by hand: warmup from 1e-5, then stable, then the decay over the last epochs.
        ('--sched wsd --epochs 5 --decay-epochs 2', [0.1, 0.1, 0.1, 0.1, 0.1 * (1 - 0.5**0.5)]),
        ('--sched wsd --epochs 5 --decay-epochs 0.4 --lr-decay-fn linear', [0.1, 0.1, 0.1, 0.1, 0.05]),
        ('--sched wsd --epochs 5', [0.1] * 5),  # a fifth of the run, whose first epoch is still at full rate
        (
            '--sched rsqrt --epochs 4 --lr-stable-timescale 1 --decay-epochs 1',
            [0.1, 0.1 / 2**0.5, 0.1 / 3**0.5, 0.1 / 2],
        ),
        ('--sched constant --epochs 2', [0.1, 0.1]),
    ],
)
def test_schedules(flags, rates, data, tmp_path):
    run = run_train(f'{data} {TINY} --lr 0.1 {flags}', tmp_path)
    rows = (run / 'summary.csv').read_text().splitlines()[1:]
    assert [float(row.split(',')[-1]) for row in rows] == pytest.approx(rates)


def test_image_size_reaches_the_model(data, tmp_path):
    run = run_train(f'{data} {TINY} --model test_vit --img-size 48 --epochs 1', tmp_path)
    assert torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']['pos_embed'].shape[1] == 1 + 9


def test_pretrained_configuration_is_overlaid(data, tmp_path, caplog):
    weights = timm.create_model('test_resnet', num_classes=5)
    torch.save(weights.state_dict(), tmp_path / 'five.pth')
    flags = f'{data} {TINY} --epochs 1 --lr 1e-30 --pretrained'
    with caplog.at_level('INFO', 'timm'):
        run = run_train(
            f'{flags} --pretrained-path {tmp_path}/five.pth --pretrained-cfg-overlay mean=(0,0,0)', tmp_path
        )
    assert any('mean: (0, 0, 0)' in message for message in caplog.messages)
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    assert torch.allclose(state['conv1.0.weight'], weights.state_dict()['conv1.0.weight'])
    assert len(state['fc.bias']) == 3


def test_losses_of_one_label(data, tmp_path):
    for flags in (
        '--loss ce',
        '--loss bce --smoothing 0',
        '--loss asl',
        '--loss poly --poly-epsilon 1',
        '--loss poly --mixup 0.2',
        '--loss jsd --aug-splits 2',
        '--loss bce --loss-class-weight 1,2,3',
    ):
        run = run_train(f'{data} {TINY} --epochs 1 {flags}', tmp_path)
        assert torch.load(run / 'last.pth.tar', weights_only=False)['args'].loss == flags.split()[1]


def test_mixing_of_ours_takes_what_mixing_of_stocks_takes(data, tmp_path, capsys):
    run_train(f'{data} {TINY} --epochs 1 --loss poly --keep-cut cutmix', tmp_path)
    said = refuse_train(f'{data} {TINY} --loss asl --keep-cut cutmix', tmp_path, capsys)
    assert 'AsymmetricLossSingleLabel' in said


def test_class_weights(data, tmp_path, capsys):
    stats = tmp_path / 'stats.json'
    stats.write_text(json.dumps(dict(pos_counts=[8, 4, 2], num_samples=16)))
    run_train(f'{data} {TINY} --epochs 1 --loss bce --class-stats {stats} --loss-pos-weight neg_pos', tmp_path)
    for flags, words in [
        ('--loss-class-weight 1,2', ['--loss-class-weight 1,2', '2 values for 3 classes']),
        ('--loss-pos-weight inv_freq', ['--loss-pos-weight inv_freq', 'neg_pos']),
        ('--loss-pos-weight neg_pos', ['--loss-pos-weight neg_pos', '--class-stats']),
        (f'--loss-class-weight {tmp_path}/none.json', ['none.json', 'a,b,c']),
        (f'--loss-pos-weight neg_pos --class-stats {tmp_path}/none.json', ['none.json', 'pos_counts']),
    ]:
        said = refuse_train(f'{data} {TINY} --loss bce {flags}', tmp_path, capsys, 'refused')
        assert all(word in said for word in words), said
    assert not (tmp_path / 'refused').exists()


SEVERAL = f'{TINY} --dataset hfds/fixture --task multilabel'


@pytest.fixture
def several_labels(monkeypatch):
    """In place of a reader of the Hugging Face Hub; gives what it was asked for."""
    asked = []

    def create(name, **kwargs):
        asked.append(kwargs)
        return create_several_labels(name, **kwargs)

    monkeypatch.setattr(keepaug.data.sets, 'create_dataset', create)
    return asked


@pytest.mark.parametrize(
    'flags',
    [
        '',
        '--target-format multihot --no-prefetcher',
        '--mixup 0.2 --smoothing 0.1',
        '--keep-cut --cutmix 1 -j 1',
        '--cutmix 1 --no-prefetcher',
        '--loss asl --loss-pos-weight 2',
        '--loss zlpr',
        '--loss twoway --twoway-tp 2',
        '--loss poly --poly-gamma 2',
        '--loss db --class-stats {stats}',
        '--keep-cut cutmix --early-exit',
        '--model test_vit --model-kwargs use_naflex=True --naflex-loader --naflex-train-seq-lens 4 --mixup 0.2',
    ],
)
def test_several_labels(flags, several_labels, tmp_path):
    stats = tmp_path / 'stats.json'
    stats.write_text(json.dumps(dict(pos_counts=[12, 11, 13], num_samples=24)))
    fields = '' if '--target-format' in flags else '--target-key a,b/c'
    run = run_train(f'{SEVERAL} --opt adamw --lr 0.01 --no-aug {fields} {flags.format(stats=stats)}', tmp_path)
    header, *rows = [row.split(',') for row in (run / 'summary.csv').read_text().splitlines()]
    assert header == [
        'epoch',
        'train_loss',
        'eval_loss',
        'eval_map',
        'eval_micro_f1',
        'eval_macro_f1',
        'eval_sample_f1',
        'lr',
    ]
    assert len(rows) == 2
    checkpoint = torch.load(run / 'model_best.pth.tar', weights_only=False)
    assert checkpoint['metric'] == max(float(row[3]) for row in rows)
    assert checkpoint['args'].smoothing == (0.1 if '--smoothing' in flags else 0.0)
    assert several_labels[0]['target_key'] == (fields.split() or [None])[-1]


def test_f1_threshold(several_labels, tmp_path):
    scores = []
    for threshold in ('0.01', '0.99'):
        run = run_train(f'{SEVERAL} --epochs 1 --multilabel-threshold {threshold}', tmp_path)
        scores.append(float((run / 'summary.csv').read_text().splitlines()[1].split(',')[4]))
    assert scores[0] > scores[1]


def test_metric_of_another_task(several_labels, tmp_path, capsys):
    said = refuse_train(f'{SEVERAL} --eval-metric top1', tmp_path, capsys)
    assert '--eval-metric top1' in said and 'map' in said


def test_validation_of_several_labels(several_labels, tmp_path, capsys):
    run = run_train(f'{SEVERAL} --opt adamw --lr 0.01 --no-aug', tmp_path)
    best = torch.load(run / 'model_best.pth.tar', weights_only=False)['metric']
    flags = (
        '--dataset hfds/fixture --task multilabel --model test_resnet --num-classes 3 --img-size 32 -b 8 '
        '--device cpu -j 0 --use-train-size'
    )
    results = validate.validate(validate.parser.parse_args(f'{flags} --checkpoint {run}/model_best.pth.tar'.split()))
    assert list(results)[:5] == ['model', 'map', 'micro_f1', 'macro_f1', 'sample_f1']
    assert results['map'] == pytest.approx(best, abs=1e-3)
    ranked, _ = validate.validate_several(
        validate.parser.parse_args(flags.split()),
        [dict(model='test_resnet', checkpoint=str(run / name)) for name in ('checkpoint-0.pth.tar', 'last.pth.tar')],
    )
    assert [result['map'] for result in ranked] == sorted((result['map'] for result in ranked), reverse=True)


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--task multilabel', ['--task multilabel', 'image folder']),
        ('--task multilabel --dataset hfds/x --metrics-avg micro', ['--metrics-avg micro', '--task multilabel']),
        ('--target-key a,b', ['--target-key a,b', '--task multilabel']),
        ('--tf-preprocessing', ['--tf-preprocessing', 'tensorflow']),
        ('--valid-labels {labels} --checkpoint {checkpoint}', ['--valid-labels', '2 classes']),
    ],
)
def test_validation_refuses(flags, words, data, tmp_path, capsys):
    labels, checkpoint = tmp_path / 'labels.txt', tmp_path / 'three.pth'
    labels.write_text('0\n1\n')
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), checkpoint)
    said = refuse_validate(
        f'{data} --model test_resnet --num-classes 3 --device cpu -j 0 -b 8 --img-size 32 '
        f'{flags.format(labels=labels, checkpoint=checkpoint)}',
        capsys,
    )
    assert all(word in said for word in words), said


def test_target_s_prefix_stays_stocks():
    assert validate.parser.parse_args(['--target', 'label']).target_key == 'label'


@pytest.mark.parametrize('written', ['', '--target-format indices', '--target-format multihot'])
def test_labels_arrive_as_they_are_written(written, several_labels, tmp_path, monkeypatch):
    seen = []
    forward = MultiLabelClassificationTask.forward

    def watched(self, input, target):
        seen.append(target)
        return forward(self, input, target)

    monkeypatch.setattr(MultiLabelClassificationTask, 'forward', watched)
    run_train(f'{SEVERAL} --epochs 1 {written}', tmp_path)
    wanted = SeveralLabels(dense=True).labels.float()
    assert sorted(torch.cat(seen).tolist()) == sorted(wanted.tolist())
