"""The block that tells which augmentations are on: all of them, as strong as they are, and ending when they do."""

import re
from collections import defaultdict

import pytest
from timm.data import Mixup
from timm.data.auto_augment import AugMixAugment, AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomCropOrPad, RandomResizedCropAndInterpolation, ResizeKeepRatio
from torchvision import transforms

from keepaug import training
from keepaug.augment import BatchAugment
from keepaug.data.policies import TorchvisionPolicy
from keepaug.data.transform import TrainingTransform
from keepaug.options import create_parser, parse_args
from keepaug.record.start_block import _rate_without_effect
from keepaug.training.consistency_task import ConsistencyTask
from keepaug.training.feature_dropout_task import FeatureDropoutTask
from keepaug.training.phases import Phases
from tests.scripts import TINY, run_train
from tests.test_every_method import EVERY

CROP = 'crop, 0.08 to 1, 0.75 to 1.33'
FLIP = 'left-right flip, 0.5'
JITTER = 'color jitter, 0.6 to 1.4'
LOADER = [CROP, FLIP, JITTER]
SQUARE = 'keep-cut, cutout, 8 x 8 px, probability {}, tau 0.6, saliency {}, on the device'
POLICY = 'policy, {}'
NO_JITTER = 'without effect, --color-jitter {}, --aa {}'

# What the lines of each method say: the name of an augmentation first, then what else must stand there.
LINES = {
    'keep-cut': [*LOADER, SQUARE.format(1, 'low')],
    'keep-cut-full': [*LOADER, SQUARE.format(0.5, 'full')],
    'keep-cut-blind': [*LOADER, 'keep-cut, cutout, 8 x 8 px, probability 1, anywhere inside'],
    'keep-cut-erase': [*LOADER, 'keep-cut, erase, at most 2, fill rand, probability 0.7, tau 0.6, saliency low'],
    'keep-cutmix': [
        *LOADER,
        'keep-cut, cutmix, mixup alpha 0.2, cutmix alpha 1, 0.5 of the draws, elem, tau 0.6, saliency low',
    ],
    'recycled': [*LOADER, SQUARE.format(1, 'recycled')],
    'recycled-erase': [
        'crop, padded by 4 px',
        FLIP,
        JITTER,
        'copies, 2 copies of each image',
        'keep-cut, erase, tau 0.6, saliency recycled',
        'joint-occlusion, hide-and-seek',
    ],
    'recycled-cutmix': [
        'resize',
        'crop',
        FLIP,
        JITTER,
        'keep-cut, cutmix, cutmix alpha 1, per elem, tau 0.6, saliency recycled',
    ],
    'keep-cut-early': [*LOADER, SQUARE.format(1, 'early')],
    'keep-cut-low-early': [*LOADER, SQUARE.format(1, 'low-early')],
    'early-exit': LOADER,
    'cutout': [*LOADER, 'cutout, 8 x 8 px, probability 1, over the border too'],
    'grid-mask': [*LOADER, 'grid-mask, 14 to 32 px, 84% kept, probability 1'],
    'attentive-cutmix': [
        *LOADER,
        'attentive-cutmix, 6 patches, 7 x 7, of the model itself, probability 0.5, per batch',
    ],
    'cutmix-variant': [*LOADER, 'cutmix-variant, center-gaussian, alpha 1, probability 1, per elem'],
    'feature-cutmix': [*LOADER, 'feature-cutmix, alpha 1, all but the last, probability 1, per batch'],
    'manifold-mixup': [*LOADER, 'manifold-mixup, alpha 1, stages 0, 1, 2, probability 1, per batch'],
    'uda': [
        CROP,
        FLIP,
        POLICY.format('rand-m9-mstd0.5'),
        'uda, 2 unlabelled, weight 1, temperature 0.4, threshold 0.8, log',
        SQUARE.format(1, 'low'),
        NO_JITTER.format(0.4, 'rand-m9-mstd0.5'),
    ],
    'uda-paste': [
        CROP,
        FLIP,
        POLICY.format('rand-m9'),
        'uda, 1 unlabelled, threshold 0.4',
        'keep-paste, 8 x 8 px, probability 1, tau 0.6, saliency early, random erasing, probability 0.3',
        NO_JITTER.format(0.4, 'rand-m9'),
    ],
    'keep-paste': [
        CROP,
        FLIP,
        POLICY.format('rand-m9-mstd0.5'),
        'keep-paste, 8 x 8 px, probability 1, tau 0.6, saliency low, random erasing, probability 0.3, on the device',
        NO_JITTER.format(0.4, 'rand-m9-mstd0.5'),
    ],
    'keep-paste-and-cut': [
        'crop, padded by 4 px',
        FLIP,
        POLICY.format('augmix-m5-w2'),
        'keep-paste, 6 x 6 px, probability 1, tau 0.6, saliency early',
        SQUARE.format(1, 'early'),
        'mixup, alpha 0.2, probability 1, per batch, on the device',
        NO_JITTER.format(0.4, 'augmix-m5-w2'),
    ],
    'pad-crop': ['crop, padded by 4 px', FLIP, JITTER],
    'torchvision-policy': [
        CROP,
        FLIP,
        POLICY.format('tv-cifar10-m12'),
        'keep-paste, 8 x 8 px, probability 1, tau 0.6, saliency low',
        NO_JITTER.format(0.4, 'tv-cifar10-m12'),
    ],
    'feature-dropout': [*LOADER, 'feature-dropout, dropblock, 2 x 2 places, probability 0.1'],
    'initialization': LOADER,
    'joint-occlusion': [
        *LOADER,
        SQUARE.format(1, 'low'),
        'joint-occlusion, saliency, 8 x 8 px, 2 px, probability 0, whole and occluded',
    ],
    'occlusion-only': [*LOADER, 'joint-occlusion, cutout, squares 2, 8 x 8 px, probability 0.5, occluded images alone'],
    'copies': [
        *LOADER,
        'copies, 2 copies of each image',
        'joint-occlusion, hide-and-seek, 4 x 4 cells, probability 0.5, probability 0, whole and occluded',
    ],
}
# Stock's own, as timm builds them.
STOCK = {
    '': LOADER,
    '--aa rand-m9-mstd0.5 --vflip 0.1 --hflip 0': [
        CROP,
        'upside-down flip, 0.1',
        POLICY.format('rand-m9-mstd0.5'),
        NO_JITTER.format(0.4, 'rand-m9-mstd0.5'),
    ],
    '--aa rand-m9-mstd0.5 --color-jitter 0.3': [
        CROP,
        FLIP,
        POLICY.format('rand-m9-mstd0.5'),
        NO_JITTER.format(0.3, 'rand-m9-mstd0.5'),
    ],
    '--aa 3a': [CROP, FLIP, POLICY.format('3a'), JITTER],
    '--color-jitter 0': [CROP, FLIP],
    '--color-jitter-prob 0.8 --grayscale-prob 0.2 --gaussian-blur-prob 0.1': [
        CROP,
        FLIP,
        f'{JITTER}, probability 0.8',
        'grayscale, 0.2',
        'blur, 23 px, 0.1',
    ],
    '--color-jitter-prob 0': [CROP, FLIP],
    '--reprob 0.3 --remode const --recount 2': [
        *LOADER,
        'random erasing, probability 0.3, fill const, at most 2, on the device',
    ],
    '--reprob 0.3 --no-prefetcher': [*LOADER, 'random erasing, probability 0.3, fill pixel, at most 1'],
    '--train-crop-mode rkrr --scale 0.5 1': [
        'resize, 0.5 to 1, probability 0.5, 0.75 to 1.33',
        'crop, at random',
        FLIP,
        JITTER,
    ],
    '--mixup 0.2 --cutmix 1': [
        *LOADER,
        'mixup and cutmix, mixup alpha 0.2, cutmix alpha 1, 0.5 of the draws, per batch, while collating',
    ],
    '--cutmix-minmax 0.2 0.8 --mixup-mode pair --no-prefetcher': [
        *LOADER,
        'cutmix, side 0.2 to 0.8, probability 1, per pair, on the device',
    ],
    '--no-aug --aa original --reprob 0.3 --mixup 0.2': [
        'mixup, alpha 0.2, probability 1, while collating',
        'without effect, crop, flip, color jitter, --aa original, --reprob 0.3, --no-aug',
    ],
    '--aug-splits 2 --jsd-loss --reprob 0.3 --resplit': [
        *LOADER,
        'splits, 2 views, the first one clean',
        'random erasing, probability 0.3, the first of 2 parts',
    ],
    '--train-img-sizes 32 96 --keep-cut': [*LOADER, 'keep-cut, cutout, 16 x 16 px, 40 x 40 px'],
    '--model test_vit --model-kwargs use_naflex=True --naflex-loader --naflex-train-seq-lens 4 --reprob 0.2 '
    '--mixup 1': [*LOADER, 'mixup, alpha 1, in the loader', 'random erasing, probability 0.2'],
    '--cutmix-variant scheduled --mixup-prob 0.8': [
        *LOADER,
        'cutmix-variant, scheduled, alpha 1, from 0 to 0.8, per batch',
    ],
    '--mixup-off-epoch 1': [*LOADER, 'without effect, --mixup-off-epoch 1'],
    '--mixup-prob 0.3 --mixup-switch-prob 0.2 --remode rand --recount 2 --train-size-probs 0.4': [
        *LOADER,
        'without effect, --mixup-prob 0.3, --mixup-switch-prob 0.2, no labels are mixed',
        'without effect, --remode rand, --recount 2, --reprob',
        'without effect, --train-size-probs 0.4, --train-img-sizes',
    ],
    '--mixup 1 --mixup-switch-prob 0.2': [
        *LOADER,
        'mixup, alpha 1, probability 1, while collating',
        'without effect, --mixup-switch-prob 0.2',
    ],
    '--keep-cut erase --keep-tau none --recount 2 --remode rand': [*LOADER, 'keep-cut, erase, at most 2, fill rand'],
}
ENDING = {
    **{name: f'{flags} --refine-epochs 1' for name, flags in EVERY.items()},
    'stock': '--aa original --reprob 1 --vflip 0.5 --refine-epochs 1',
    'stock-colours': '--color-jitter-prob 1 --grayscale-prob 1 --reprob 1 --no-prefetcher --refine-epochs 1',
    'stock-mixing': '--mixup 1 --cutmix 1 --refine-epochs 2',
    'stock-mixing-off': '--mixup 1 --mixup-off-epoch 1 --refine-epochs 1',
    'cutmix-off': '--keep-cut cutmix --mixup-off-epoch 1 --reprob 1',
    'device-mixing-off': '--mixup 1 --no-prefetcher --mixup-off-epoch 2',
}
# In the default suite these stand for all.
FAST = ('keep-paste-and-cut', 'refinement', 'copies', 'stock', 'stock-colours', 'stock-mixing-off', 'cutmix-off')


def block(caplog) -> list[str]:
    (text,) = (record.message for record in caplog.records if record.message.startswith('Augmentations'))
    return text.splitlines()


def tell(lines: list[str], wanted: list[str]) -> bool:
    """Whether each line begins with the first of the words that are wanted of it, and has the others."""
    lines = [' '.join(['', *re.sub('[,;:()]', ' ', line).split(), '']) for line in lines]
    return len(lines) == len(wanted) and all(
        line.startswith(f' {words.split(", ")[0]} ') and all(f' {word} ' in line for word in words.split(', '))
        for line, words in zip(lines, wanted)
    )


@pytest.mark.parametrize(
    'flags, lines', [*(pytest.param(EVERY[name], lines, id=name) for name, lines in LINES.items()), *STOCK.items()]
)
def test_every_augmentation_is_told_with_its_strength(flags, lines, data, tmp_path, caplog, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('keepaug.training.train_one_epoch', interrupt)
    with caplog.at_level('INFO', logger='train'):
        run_train(f'{data} {TINY} {flags}', tmp_path)
    assert tell(block(caplog)[1:], lines), '\n'.join(block(caplog))
    assert set(EVERY) - set(LINES) == {'refinement', 'refinement-plain'}, 'of which the next test has one'


@pytest.mark.parametrize(
    'flags, reached',
    [
        ('--epochs 2 --warmup-epochs 2', False),
        ('--epochs 2 --warmup-epochs 1', True),
        ('--epochs 3 --warmup-epochs 2 --stop-epoch 2', False),
        ('--epochs 2 --warmup-epochs 2 --warmup-prefix', True),
        ('--epochs 2 --warmup-epochs 2 --sched none', True),
    ],
)
def test_a_warm_up_that_outlasts_the_run_is_told(flags, reached):
    args = parse_args(create_parser(), ['--lr', '0.5', *flags.split()])[0]
    phases = Phases(args.epochs + (args.warmup_epochs if args.warmup_prefix else 0))
    told = [*_rate_without_effect(args, phases)]
    assert len(told) == (not reached)
    assert all('--lr 0.5' in note and '--warmup-epochs 2' in note and 'after 2 at about 0.25' in note for note in told)


def test_phases_are_told(data, tmp_path, caplog):
    with caplog.at_level('INFO', logger='train'):
        run_train(f'{data} {TINY} {EVERY["refinement"]} --epochs 3 --refine-fade 2 --mixup-off-epoch 2', tmp_path)
    fade = 'fades from epoch 1 on, off from epoch 3 on refinement'
    assert tell(
        block(caplog),
        [
            'Augmentations, epoch 3 is refined',
            f'{CROP}, stays',
            f'{FLIP}, stays',
            f'{JITTER}, {fade}',
            f'random erasing, probability 0.3, {fade}',
            f'{SQUARE.format(1, "low")}, {fade}',
            'mixup, alpha 0.3, fades from epoch 1 on, off from epoch 2 on, --mixup-off-epoch',
        ],
    ), block(caplog)


@pytest.fixture
def called(monkeypatch):
    """Which augmentations were at work, by epoch: recorded inside of them."""
    by_epoch, now = defaultdict(set), [None]

    def watch(owner: type, method: str, *names: str) -> None:
        inner = getattr(owner, method)

        def watched(self, *args, **kwargs):
            result = inner(self, *args, **kwargs)
            if method != '_params_per_batch' or result[0] != 1.0:
                by_epoch[now[0]].update(names or [self.name])
            return result

        monkeypatch.setattr(owner, method, watched)

    train_one_epoch = training.train_one_epoch

    def epoch(number, *args, **kwargs):
        now[0] = number
        by_epoch[number]  # there, even where nothing is at work
        return train_one_epoch(number, *args, **kwargs)

    monkeypatch.setattr('keepaug.training.train_one_epoch', epoch)
    watch(RandomResizedCropAndInterpolation, '__call__', 'crop')
    for owner in (transforms.RandomCrop, RandomCropOrPad):
        watch(owner, 'forward', 'crop')
    watch(ResizeKeepRatio, '__call__', 'resize')
    watch(transforms.RandomHorizontalFlip, 'forward', 'left-right flip')
    watch(transforms.RandomVerticalFlip, 'forward', 'upside-down flip')
    for owner in (AutoAugment, RandAugment, AugMixAugment):
        watch(owner, '__call__', 'policy')
    watch(TorchvisionPolicy, 'forward', 'policy')
    watch(FeatureDropoutTask, 'forward', 'feature-dropout')
    watch(ConsistencyTask, 'forward', 'uda')
    watch(transforms.ColorJitter, 'forward', 'color jitter')
    watch(transforms.RandomGrayscale, 'forward', 'grayscale')
    watch(RandomErasing, '__call__', 'random erasing')
    watch(TrainingTransform, '__call__', 'copies')
    watch(Mixup, '_params_per_batch', 'mixup', 'mixup and cutmix')
    kinds = list(BatchAugment.__subclasses__())
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if 'augment' in vars(kind):
            watch(kind, 'augment')
    return by_epoch


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ENDING]
)
def test_what_ends_ends_when_it_is_told_to(name, data, tmp_path, caplog, called):
    with caplog.at_level('INFO', logger='train'):
        run_train(f"{data} {TINY} --epochs 3 --val-split '' {ENDING[name]}", tmp_path)
    rows = [re.match(r'  (\S+(?: \S+)*)(?:  +(stays|.*off from epoch (\d)))?', line) for line in block(caplog)[1:]]
    rows = [row for row in rows if 'without' not in row[1]]
    assert rows
    for epoch, at_work in called.items():
        for row in rows:
            end = 99 if row[3] is None else int(row[3])
            if 'fades' not in (row[2] or ''):
                assert (row[1] in at_work) == (epoch < end), (epoch, row[0])
    assert len(called) == 3 + int((re.search(r'--refine-epochs (\d)$', ENDING[name]) or [0, 0])[1])
