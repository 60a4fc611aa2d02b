"""A run that stops and is resumed with `--exact-resume` ends as the one that was never stopped, to the last bit."""

import csv
import os
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
from timm.scheduler.plateau_lr import PlateauLRScheduler

import keepaug.data.sets
from keepaug.options import create_parser
from keepaug.record.exact_state import load_schedule_state, open_exact_resume, schedule_state
from tests.readers import create_several_labels
from tests.scripts import TINY, refuse_train, run_train, write_images
from tests.test_every_method import EVERY

# Each run stops after one epoch, or after those that stand behind `--stop`.
SCHEDULES = {
    'cosine-cycles': '--sched cosine --lr-cycle-limit 2 --lr-cycle-mul 1.5 --lr-cycle-decay 0.5 --warmup-epochs 1',
    'cosine-updates': '--sched cosine --sched-on-updates --warmup-epochs 1 --warmup-prefix',
    'cosine-noise': '--sched cosine --lr-noise 0.2 0.9',
    'step': '--sched step --decay-epochs 1 --decay-rate 0.5',
    'multistep': '--sched multistep --decay-milestones 1 2 --decay-rate 0.5',
    'poly': '--sched poly --lr-k-decay 0.7 --warmup-epochs 1',
    'tanh': '--sched tanh --cooldown-epochs 1',
    'wsd-updates': '--sched wsd --sched-on-updates --decay-epochs 0.5 --warmup-epochs 1',
    'rsqrt': '--sched rsqrt --decay-epochs 1 --lr-stable-timescale 2',
    'constant': '--sched constant',
    'none': '--sched none',
    # At such a rate nothing is learnt and the accuracy stays: every epoch but the first counts as one without progress.
    'plateau': '--sched plateau --patience-epochs 1 --decay-rate 0.5 --epochs 6 --lr 1e-6 --stop 3 5',
    'plateau-noise': '--sched plateau --patience-epochs 1 --cooldown-epochs 1 --decay-rate 0.5 --epochs 6 --lr 1e-6 '
    '--lr-noise 0.1 0.9 --stop 3 5',
    'plateau-warmup': '--sched plateau --patience-epochs 0 --decay-rate 0.5 --warmup-epochs 2 --warmup-lr 1e-7 '
    '--epochs 6 --lr 1e-6 --stop 4',
}
OPTIMIZERS = {
    'momentum': '--opt momentum --weight-decay 0.1',
    'adamw': '--opt adamw --layer-decay 0.7 --model test_vit',
    'lookahead': '--opt lookahead_adamw',
    'adopt': '--opt adopt',
    'muon': '--opt muon --model test_vit',
    'nadam-half': '--opt nadam --model-dtype bfloat16',
}
TRAINING = {
    'plain': '',
    'ema': '--model-ema --model-ema-warmup --model-ema-decay 0.9',
    'ema-on-host': '--model-ema --model-ema-force-cpu',
    'accumulation': '--grad-accum-steps 2 --clip-grad 1.0',
    'val-interval': '--val-interval 2 --epochs 5 --stop 2',
    'history': '--checkpoint-hist 1 --epochs 5 --stop 3',
    'amp': '--amp --amp-dtype bfloat16',
    'dropping': '--model test_convnext --drop 0.3 --drop-path 0.3',
    'early-exit-ema': '--early-exit --model-ema --opt adamw',
    'no-validation': "--val-split ''",
}
LOADING = {
    'workers': '-j 2',
    'no-prefetcher': '--no-prefetcher --mixup 0.2 --reprob 0.5',
    'multi-epochs': '-j 1 --use-multi-epochs-loader --reprob 0.5',
    'sizes': '--train-img-sizes 32 48 -j 1',
    'sizes-cycled': '--train-img-sizes 32 48 --train-batches-per-epoch 5 --train-size-schedule progressive',
    'policy': '--aa rand-m9-mstd0.5-inc1 --color-jitter-prob 0.5 --grayscale-prob 0.3 --gaussian-blur-prob 0.3',
    'augmix': '--aa augmix-m5-w2 --train-interpolation random',
    'splits': '--aa rand-m9 --aug-splits 3 --jsd-loss --reprob 0.3 --resplit',
    'mixing': '--mixup 0.2 --cutmix 1 --mixup-mode elem --mixup-off-epoch 2 -j 1',
    'multi-epochs-mixing-off': '--mixup 1 --mixup-off-epoch 2 -j 1 --use-multi-epochs-loader',
    'naflex': '--model test_vit --model-kwargs use_naflex=True --naflex-loader --naflex-train-seq-lens 4 9 '
    '--naflex-max-seq-len 9 --reprob 0.5 --mixup 0.2 -j 1',
    'refined-workers': '--refine-epochs 2 --refine-fade 1 --aa rand-m9 --mixup 0.3 -j 1 --use-multi-epochs-loader',
}
SETTINGS = {**SCHEDULES, **OPTIMIZERS, **TRAINING, **LOADING}
# In the default suite these stand for the others.
FAST = (
    'cosine-updates',
    'plateau',
    'plateau-noise',
    'lookahead',
    'nadam-half',
    'ema',
    'val-interval',
    'history',
    'workers',
    'no-prefetcher',
    'sizes-cycled',
    'splits',
    'mixing',
    'multi-epochs-mixing-off',
    'naflex',
    'refined-workers',
)
FAST_METHODS = ('recycled', 'recycled-erase', 'keep-paste-and-cut', 'keep-cut-early', 'refine')


def checkpoint(run: Path, name: str = 'last') -> dict:
    return torch.load(run / f'{name}.pth.tar', weights_only=False)


def assert_same(one, other, where: str = '') -> None:
    """Equal to the last bit, through dictionaries and lists."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for name in one:
            assert_same(one[name], other[name], f'{where}/{name}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_same(*pair, f'{where}/{i}')
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    else:
        assert one == other or one != one and other != other, where


def assert_same_run(whole: Path, parts: Path) -> None:
    """The same files; in them the same weights, averages, optimizer, schedule, ranking and rows."""
    names = [
        {path.name for path in run.iterdir() if not path.name.startswith(('recovery', 'events'))}
        for run in (whole, parts)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith('.pth.tar'):
            wanted, got = (checkpoint(run, name.removesuffix('.pth.tar')) for run in (whole, parts))
            for held in (wanted, got):
                held.pop('args')
            assert_same(got, wanted, name)
    assert rows(whole) == rows(parts)


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of `summary.csv`, without what is there only while TensorBoard is written."""
    with open(run / 'summary.csv', newline='') as file:
        return [{name: value for name, value in row.items() if name != 'saliency_kept'} for row in csv.DictReader(file)]


def train_both(flags: str, tmp_path: Path, stops: tuple[int, ...] = (1,)) -> tuple[Path, Path]:
    """A run in one go, and one that stops after so many epochs each time."""
    whole = run_train(flags, tmp_path, 'whole')
    for stop in stops:
        run_train(f'{flags} --resume auto --stop-epoch {stop}', tmp_path, 'parts')
    return whole, run_train(f'{flags} --resume auto', tmp_path, 'parts')


def _slow_but(fast: tuple[str, ...], names) -> list:
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize('name', _slow_but(FAST, SETTINGS))
def test_stopped_run_ends_as_the_whole_one(name, data, tmp_path):
    flags, _, stops = SETTINGS[name].partition(' --stop ')
    stops = tuple(map(int, stops.split())) or (1,)
    assert_same_run(*train_both(f'{data} {TINY} --epochs 3 {flags} --exact-resume', tmp_path, stops))


@pytest.mark.parametrize('method', _slow_but(FAST_METHODS, EVERY))
def test_every_method(method, data, tmp_path):
    assert_same_run(*train_both(f'{data} {TINY} {EVERY[method]} --exact-resume', tmp_path))


def test_several_labels(data, tmp_path, monkeypatch):
    monkeypatch.setattr(keepaug.data.sets, 'create_dataset', create_several_labels)
    assert_same_run(*train_both(f'{TINY} --task multilabel --dataset hfds/fixture --exact-resume', tmp_path))


@pytest.mark.parametrize(
    'flags',
    [
        '--aa rand-m9-mstd0.5 --mixup 0.2 --reprob 0.4 --drop 0.2',
        pytest.param('--keep-paste --keep-size 8 --aa augmix-m5-w2 --keep-cut', marks=pytest.mark.slow),
        pytest.param(LOADING['naflex'].replace('-j 1', ''), marks=pytest.mark.slow),
        pytest.param('--train-img-sizes 32 48', marks=pytest.mark.slow),
        pytest.param('--no-prefetcher --mixup 0.2 --aa rand-m9', marks=pytest.mark.slow),
    ],
)
def test_workers_do_not_matter(flags, data, tmp_path):
    """Nor how a loader with workers goes from epoch to epoch; to the risks neither."""
    loaders = ['-j 0', '-j 2', '-j 1 --use-multi-epochs-loader']
    if 'naflex' in flags or 'sizes' in flags:
        loaders.pop()
    risk = '' if 'naflex' in flags else '--risk-samples 10'
    runs = [
        run_train(f'{data} {TINY} --exact-resume {risk} {flags} {loader}', tmp_path, str(i))
        for i, loader in enumerate(loaders)
    ]
    for run in runs[1:]:
        assert_same(checkpoint(run)['state_dict'], checkpoint(runs[0])['state_dict'])
        assert (run / 'summary.csv').read_text() == (runs[0] / 'summary.csv').read_text()


def test_a_part_may_be_loaded_and_watched_otherwise(data, tmp_path):
    flags = f'{data} {TINY} --aa rand-m9 --cutmix 1 --keep-cut --keep-size 8 --exact-resume --resume auto'
    whole = run_train(flags, tmp_path, 'whole')
    run_train(f'{flags} --stop-epoch 1 -j 2 --log-interval 1 --log-tensorboard', tmp_path, 'parts')
    assert_same_run(whole, run_train(flags, tmp_path, 'parts'))


def test_runs_of_two_seeds_differ(data, tmp_path):
    runs = [run_train(f'{data} {TINY} --epochs 1 --exact-resume --seed {seed}', tmp_path, str(seed)) for seed in (0, 1)]
    states = [checkpoint(run)['state_dict'] for run in runs]
    assert not all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize('schedule', ['cosine', 'plateau', 'cosine --sched-on-updates'])
def test_a_finished_run_is_trained_on(schedule, data, tmp_path, caplog):
    """With more epochs it is another run from there on, which is said, with the schedule of all of them."""
    flags = f'{data} {TINY} --sched {schedule} --exact-resume --resume auto'
    run_train(flags, tmp_path)
    assert 'the schedule is that of' not in caplog.text
    run = run_train(f'{flags} --epochs 4', tmp_path)
    assert '--epochs is 4 and was 2' in caplog.text
    rates = [float(row.split(',')[-1]) for row in (run / 'summary.csv').read_text().splitlines()[1:]]
    assert len(rates) == 4
    if schedule == 'cosine':
        assert rates[2:] == pytest.approx([0.025, 0.025 * (1 - 0.5**0.5)], rel=1e-3)


def test_checkpoint_is_stocks_too(data, tmp_path):
    """timm's own reader takes it, and so does a run without the flag."""
    run = run_train(f'{data} {TINY} --epochs 1 --sched plateau --exact-resume', tmp_path)
    timm.create_model('test_resnet', num_classes=3, checkpoint_path=run / 'last.pth.tar')
    run_train(f'{data} {TINY} --resume {run}/last.pth.tar', tmp_path)
    assert 'exact_resume' not in checkpoint(run)


@pytest.fixture(scope='module')
def marked(data, tmp_path_factory) -> Path:
    """A run of one epoch of two, with a recovery file."""
    return run_train(
        f'{data} {TINY} --exact-resume --recovery-interval 2 --stop-epoch 1', tmp_path_factory.mktemp('marked')
    )


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--resume {run}/recovery-0-1.pth.tar', ['recovery-0-1.pth.tar', 'within an epoch', '{run}/last.pth.tar']),
        ('--resume {plain}/last.pth.tar', ['{plain}/last.pth.tar', 'without --exact-resume']),
        ('--resume {run}/last.pth.tar --seed 1', ['--seed is 1', '42']),
        ('--resume {run}/last.pth.tar -b 4', ['--batch-size is 4', 'was 8']),
        ('--resume {run}/last.pth.tar --lr 0.1', ['--lr is 0.1', 'was 0.05']),
        ('--resume {run}/last.pth.tar --keep-cut', ['--keep-cut is', "'cutout'", 'not given']),
        ('--resume {run}/last.pth.tar --start-epoch 1', ['--start-epoch 1', '--exact-resume']),
        ('--resume {run}/last.pth.tar --no-resume-opt', ['--no-resume-opt', '--exact-resume']),
        ('--dataset wds/some', ['--dataset wds/some', '--exact-resume']),
        ('--opt adahessian', ['--opt adahessian', '--exact-resume']),
    ],
)
def test_refusals(flags, words, marked, data, tmp_path, capsys):
    places = dict(run=marked, plain=tmp_path / 'plain')
    if '{plain}' in flags:
        run_train(f'{data} {TINY} --epochs 1', tmp_path, 'plain')
    said = refuse_train(f'{data} {TINY} --exact-resume {flags.format(**places)}', tmp_path, capsys)
    assert all(word.format(**places) in said for word in words), said
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'processes, words',
    [
        (2, 'the number of processes is 2 and was 1 in .*last.pth.tar'),
        (1, 'the use of torchrun is True and was False in .*last.pth.tar'),
    ],
)
def test_another_number_of_processes_is_refused(processes, words, marked):
    args = Namespace(
        exact_resume=True,
        resume=str(marked / 'last.pth.tar'),
        dist_bn='reduce',
        device='cpu',
        world_size=processes,
        distributed=True,
        taken_over=Namespace(),
        check=False,
    )
    with pytest.raises(ValueError, match=words):
        open_exact_resume(args)


def test_another_data_set_is_refused(marked, tmp_path, capsys):
    other = write_images(tmp_path / 'other', per_class=9)
    said = refuse_train(f'{other} {TINY} --exact-resume --resume {marked}/last.pth.tar', tmp_path, capsys)
    assert f'--data-dir {other} has 27 samples and had 24 in {marked}/last.pth.tar' in said
    assert not (tmp_path / 'run').exists()


def test_statistics_of_each_process_are_refused():
    args = create_parser().parse_args(['--exact-resume', '--dist-bn', ''])
    args.distributed = True
    with pytest.raises(ValueError, match="--dist-bn '' .* reduce or broadcast"):
        open_exact_resume(args)


@pytest.mark.parametrize('flag', ['--exact-resume', ''])
def test_a_checkpoint_is_on_the_disk_before_it_takes_its_name(flag, data, tmp_path, monkeypatch):
    """What a power cut asks for; without the flag, as in stock, nothing waits for the disk."""
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda file: (done.append(os.readlink(f'/proc/self/fd/{file}')), fsync(file)))
    monkeypatch.setattr(os, 'replace', lambda source, target: (done.append(target), replace(source, target)))
    run = run_train(f'{data} {TINY} --epochs 1 {flag}', tmp_path)
    named = done.index(f'{run}/last.pth.tar')
    assert (done[named - 1] == f'{run}/tmp.pth.tar') == bool(flag)


def test_restored_history_is_told_when_it_is_whole(data, tmp_path, caplog):
    """A run that is killed once its first checkpoint has a name has its history in that file alone."""
    run = run_train(f'{data} {TINY} --exact-resume --stop-epoch 1', tmp_path)
    for name in ('checkpoint-0', 'model_best'):
        (run / f'{name}.pth.tar').unlink()
    caplog.set_level('INFO')
    caplog.clear()  # of the first run, where the level is the one of another test's
    run_train(f'{data} {TINY} --exact-resume --resume auto', tmp_path)
    (told,) = [message for message in caplog.messages if message.startswith('Restored checkpoint history')]
    assert '(1 files)' in told and told.endswith(' (epoch 0).')
    listed = [message for message in caplog.messages if message.startswith('Current checkpoints')]
    assert len(listed) == 1 and 'checkpoint-1' in listed[0], 'as the next epoch ends'


@pytest.mark.parametrize('flags, epoch', [('', 0), ('--log-tensorboard', 1)])
def test_lost_folder_is_one_sentence(flags, epoch, data, tmp_path, capsys, monkeypatch, caplog):
    evaluate, calls = keepaug.training.evaluate, []

    def lose(*args):
        calls.append(None)
        if len(calls) > epoch:
            shutil.rmtree(tmp_path / 'run')
        return evaluate(*args)

    monkeypatch.setattr('keepaug.training.evaluate', lose)
    caplog.set_level('INFO', logger='train')
    said = refuse_train(f'{data} {TINY} --exact-resume {flags}', tmp_path, capsys)
    assert 'no checkpoint' not in caplog.text and 'Resume: ' not in caplog.text
    assert f'{tmp_path}/run is gone, and with it what was saved there.' in said and 'stays' not in said


@pytest.mark.parametrize(
    'changes',
    [
        dict(exact_resume=[]),
        dict(args={}),
        dict(epoch='1'),
        dict(metric='best'),
        {'exact_resume/flags': {'lr': 0.1}},
        {'exact_resume/lr': ['0.1']},
        {'exact_resume/schedule': 'cosine'},
    ],
)
def test_what_no_run_wrote_is_refused(changes, marked, data, tmp_path, capsys):
    held = checkpoint(marked)
    for name, value in changes.items():
        *parents, name = name.split('/')
        (held[parents[0]] if parents else held)[name] = value
    torch.save(held, tmp_path / 'last.pth.tar')
    said = refuse_train(f'{data} {TINY} --exact-resume --resume {tmp_path}/last.pth.tar', tmp_path, capsys)
    assert f'--resume {tmp_path}/last.pth.tar is refused: ' in said and 'exact_resume' in said


@pytest.mark.parametrize('state', [None, {}, {'lr_scheduler': {'step': 3}}])
def test_a_plateau_takes_over_its_own_state_alone(state):
    scheduler = PlateauLRScheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1))
    load_schedule_state(scheduler, schedule_state(scheduler))
    with pytest.raises(ValueError, match='other than --sched plateau'):
        load_schedule_state(scheduler, state)
