"""A run that stops and is resumed with `--exact-resume` ends as the one that was never stopped, to the last bit."""
import csv
from pathlib import Path

import pytest
import torch

import keepaug.engine.data
from tests.readers import create_several_labels
from tests.scripts import TINY, refuse_train, run_train, write_images
from tests.test_every_method import EVERY

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
    # The tracked loss cannot fall below the best of all, so that every epoch counts as one without progress.
    'plateau': '--sched plateau --patience-epochs 1 --decay-rate 0.5 --epochs 5 --lr 1e-6 --eval-metric loss',
    'plateau-noise': '--sched plateau --patience-epochs 1 --cooldown-epochs 1 --decay-rate 0.5 --epochs 5 --lr 0.5 '
                     '--lr-noise 0.1 0.9 --eval-metric loss',
    'plateau-warmup': '--sched plateau --patience-epochs 0 --decay-rate 0.5 --warmup-epochs 2 --epochs 5 --lr 1',
}
OPTIMIZERS = {
    'momentum': '--opt momentum --weight-decay 0.1',
    'adamw': '--opt adamw --layer-decay 0.7 --model test_vit',
    'lookahead': '--opt lookahead_adamw',
    'schedule-free-like': '--opt adopt',
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
              '--reprob 0.5 --mixup 0.2 -j 1',
    'refined-workers': '--refine-epochs 2 --refine-fade 1 --aa rand-m9 --mixup 0.3 -j 1 --use-multi-epochs-loader',
}
SETTINGS = {**SCHEDULES, **OPTIMIZERS, **TRAINING, **LOADING}


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


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
    for path in whole.glob('*.pth.tar'):
        wanted, got = checkpoint(whole, path.name.split('.')[0]), checkpoint(parts, path.name.split('.')[0])
        for held in (wanted, got):
            held.pop('args')
        assert_same(got, wanted, path.name)
    assert {path.name for path in whole.iterdir()} == {path.name for path in parts.iterdir()}
    assert (whole / 'summary.csv').read_text() == (parts / 'summary.csv').read_text()


def train_both(flags: str, tmp_path: Path, stops: tuple[int, ...] = (1,)) -> tuple[Path, Path]:
    """A run in one go, and one that stops after so many epochs each time."""
    whole = run_train(flags, tmp_path, 'whole')
    for stop in stops:
        run_train(f'{flags} --resume auto --stop-epoch {stop}', tmp_path, 'parts')
    return whole, run_train(f'{flags} --resume auto', tmp_path, 'parts')


@pytest.mark.parametrize('name', SETTINGS)
def test_stopped_run_ends_as_the_whole_one(name, data, tmp_path):
    flags, _, stop = SETTINGS[name].partition(' --stop ')
    assert_same_run(*train_both(f'{data} {TINY} --epochs 3 {flags} --exact-resume', tmp_path, (int(stop or 1),)))


@pytest.mark.parametrize('method', EVERY)
def test_every_method(method, data, tmp_path):
    assert_same_run(*train_both(f'{data} {TINY} {EVERY[method]} --exact-resume', tmp_path))
