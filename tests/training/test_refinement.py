"""Refinement: its epochs get what a loader without augmentation gives, at a learning rate that is held."""

import csv
import math
import random

import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup, create_loader, create_transform
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask

from keepaug.augment import Compose, create_augment
from keepaug.data.mixing import SharedSwitchCollate
from keepaug.data.transform import Fading, Switched, TransformChanges, change_transform, shared_strength, whole_image
from keepaug.data.views import collate_splits
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.phases import Phases
from keepaug.training.refinement import Refinement
from keepaug.training.schedule import HeldRate
from tests.functional.reference import SIGNIFICANT, rate_p
from tests.processes import PROCESSES
from tests.scripts import TINY, run_train

# All that timm's loader can do to an image beyond crop and flip; the crop is the whole image and nothing is flipped.
INTENSIVE = dict(
    auto_augment='3a', color_jitter=0.4, grayscale_prob=0.5, gaussian_blur_prob=0.5, re_prob=0.9, re_mode='pixel'
)
STILL = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0, interpolation='bilinear')
COUNT = 12


class Numbered(torch.utils.data.Dataset):
    """Image i is noise of its own; its label is i."""

    transform = None

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.transform(picture(index)), index


def picture(index: int) -> Image.Image:
    pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
    return Image.fromarray(pixels.numpy())


def plain_batch(target: torch.Tensor) -> torch.Tensor:
    pixels = [torch.frombuffer(bytearray(picture(index).tobytes()), dtype=torch.uint8) for index in target.tolist()]
    return torch.stack(pixels).view(-1, 32, 32, 3).permute(0, 3, 1, 2) / 255.0


def loader(prefetcher: bool = True, workers: int = 0, copies: int = 1, plain: bool = False, **settings):
    changes = TransformChanges(
        copies=copies,
        strength=shared_strength(),
        plain=plain,
        whole=whole_image(dict(input_size=(3, 32, 32), crop_pct=1.0, interpolation='bilinear')),
    )
    return create_loader(
        change_transform(Numbered(), changes),
        (3, 32, 32),
        batch_size=4,
        is_training=True,
        num_workers=workers,
        device=torch.device('cpu'),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        use_prefetcher=prefetcher,
        **settings,
    )


def task(*augments) -> ClassificationTask:
    inner = ClassificationTask(timm.create_model('test_resnet', num_classes=COUNT), verbose=False)
    return AugmentedTask(inner, Compose(list(augments))) if augments else inner


def optimizer(*groups) -> torch.optim.Optimizer:
    groups = groups or ({},)
    return torch.optim.SGD([{'params': [torch.nn.Parameter(torch.ones(()))], **group} for group in groups], lr=0.4)


def test_phases():
    phases = Phases(scheduled=10, refined=3, fading=4)
    strengths = [phases.strength(epoch) for epoch in range(phases.total)]
    assert strengths == pytest.approx([1.0] * 6 + [0.8, 0.6, 0.4, 0.2] + [0.0] * 3)
    assert [phases.name(epoch) for epoch in (0, 5, 6, 9, 10, 12)] == [
        'augmented',
        'augmented',
        'fading',
        'fading',
        'refined',
        'refined',
    ]
    assert [epoch for epoch in range(13) if phases.ends(epoch)] == [9, 12]
    assert Phases(3).total == 3 and Phases(3).name(2) == 'augmented' and Phases(3).strength(7) == 1.0
    assert Phases(3, 1).strength(2) == 1.0 and Phases(3, 1).strength(3) == 0.0


def test_fading_step():
    strength = shared_strength()
    step = Fading(lambda image: 'changed', strength)
    stream = torch.get_rng_state()
    assert step('image') == 'changed'
    strength.fill_(0.0)
    assert step('image') == 'image'
    assert torch.equal(torch.get_rng_state(), stream), 'nothing is drawn where nothing is open'
    strength.fill_(0.3)
    assert rate_p(sum(step('image') == 'changed' for _ in range(10_000)), 10_000, 0.3) > SIGNIFICANT


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('policy', ['rand-m9-mstd0.5', 'augmix-m5-w2', 'original', None])
def test_all_but_crop_and_flip_fades(policy, prefetcher):
    """Under the same seed the faded transform gives what one without augmentation gives, random crop and flip too."""
    settings = dict(is_training=True, use_prefetcher=prefetcher, vflip=0.5)
    intensive = create_transform(
        (3, 32, 32),
        auto_augment=policy,
        color_jitter=0.4,
        color_jitter_prob=0.8,
        grayscale_prob=0.5,
        gaussian_blur_prob=0.5,
        re_prob=0.9,
        **settings,
    )
    plain = create_transform((3, 32, 32), color_jitter=None, **settings)
    strength = torch.zeros((), dtype=torch.float64)
    for copies in (1, 2):
        faded = TransformChanges(copies=copies, strength=strength).apply(intensive)
        expected = TransformChanges(copies=copies).apply(plain)
        outcomes = []
        for transform in (faded, expected):
            torch.manual_seed(0)
            random.seed(0)
            outcomes.append([torch.as_tensor(view) for i in range(6) for view in transform(picture(i))])
        assert all(torch.equal(*pair) for pair in zip(*outcomes, strict=True))


@pytest.mark.parametrize('copies', [1, 2])
def test_pairs_fade_on_their_augmented_side(copies):
    settings = dict(is_training=True, use_prefetcher=False, re_prob=0.9)
    stock = create_transform((3, 32, 32), auto_augment='rand-m9', **settings)
    strength = torch.zeros((), dtype=torch.float64)
    views = TransformChanges(paired=True, copies=copies, strength=strength).apply(stock)(picture(0))
    clean, augmented = views[:copies], views[copies:]
    assert all(torch.equal(*pair) for pair in zip(clean, augmented, strict=True))
    strength.fill_(1.0)
    # A policy may leave an image as it is, but not ten in a row.
    drawn = [TransformChanges(paired=True, strength=strength).apply(stock)(picture(0)) for _ in range(10)]
    assert not all(torch.equal(*pair) for pair in drawn)


@pytest.mark.parametrize(
    'prefetcher, workers, multi_epochs, start, copies, mixing',
    [
        (True, 0, False, None, 1, False),
        (False, 0, False, None, 1, False),
        (True, 2, False, 'fork', 1, True),
        (False, 2, False, 'fork', 1, False),
        (True, 2, True, 'fork', 1, True),
        (False, 2, True, 'fork', 1, False),
        (True, 2, True, 'fork', 2, False),
        pytest.param(False, 1, False, 'spawn', 2, False, marks=pytest.mark.slow),
        pytest.param(True, 1, True, 'spawn', 1, True, marks=pytest.mark.slow),
        # What it starts is handed its data as by spawn, and has everything imported.
        pytest.param(True, 1, True, 'forkserver', 1, True, marks=pytest.mark.xdist_group('processes')),
    ],
)
def test_what_arrives(prefetcher, workers, multi_epochs, start, copies, mixing):
    """Images of the refined epoch are the images, bit for bit, though the workers run since the epoch before."""
    collate = collate_splits if copies > 1 and not prefetcher else None
    if mixing:
        collate = SharedSwitchCollate(mixup_alpha=1.0, num_classes=COUNT, label_smoothing=0.0)
    batches = loader(
        prefetcher, workers, copies, use_multi_epochs_loader=multi_epochs, collate_fn=collate, **INTENSIVE, **STILL
    )
    if start:
        context = PROCESSES if start == 'forkserver' else start
        getattr(batches, 'loader', batches).multiprocessing_context = context
    refinement = Refinement(Phases(2, 2), batches, task())
    arrived = []
    for epoch in range(4):
        refinement.set_strength(epoch)
        same, seen = [], []
        for x, target in batches:
            target = target.argmax(1) if target.ndim == 2 else target
            same.append(torch.equal(x, plain_batch(target)))
            seen += target[:4].tolist()
        assert len(same) == COUNT // 4
        assert mixing and epoch < 2 or sorted(seen) == list(range(COUNT))
        arrived.append(same)
    assert not any(arrived[0] + arrived[1]) and all(arrived[2] + arrived[3])


def test_batches_of_the_device_are_let_through():
    """Stock's mixing without the prefetcher, and every augmentation of the task."""
    mixup = Mixup(mixup_alpha=1.0, num_classes=COUNT, label_smoothing=0.0)
    model = timm.create_model('test_resnet', num_classes=COUNT)
    augments = [
        create_augment('keep-cut', model=model, size=8),
        create_augment('cutmix', num_classes=COUNT),
        create_augment('joint-occlusion'),
    ]
    augmented = task(*augments)
    refinement = Refinement(Phases(1, 1), loader(prefetcher=False), augmented, mixup)
    x, target = torch.randn(4, 3, 32, 32), torch.arange(4)
    refinement.set_strength(0)
    out, soft = augmented.augment(x, target)
    assert len(out) == 8 and soft.shape == (8, COUNT) and not torch.equal(out[:4], x)
    refinement.set_strength(1)
    out, label = augmented.augment(x, target)
    assert out is x and label is target
    mixed, soft = mixup(x.clone(), target)
    assert torch.equal(mixed, x) and torch.equal(soft.argmax(1), target) and soft.amax(1).eq(1.0).all()


def test_fading_reaches_every_probability():
    augments = [create_augment('cutout', size=4, prob=0.8), create_augment('mixup', num_classes=COUNT, mixup_alpha=0.6)]
    augmented = task(*augments)
    batches = loader(re_prob=0.9)
    refinement = Refinement(Phases(4, 1, fading=1), batches, augmented)
    refinement.set_strength(2)
    assert batches.random_erasing.probability == 0.9 and [augment.strength for augment in augments] == [1.0, 1.0]
    refinement.set_strength(3)
    assert batches.random_erasing.probability == 0.45 and [augment.strength for augment in augments] == [0.5, 0.5]
    assert refinement.strength.item() == 0.5
    refinement.set_strength(4)
    assert batches.random_erasing is None and refinement.strength.item() == 0.0


def schedule(over: torch.optim.Optimizer, **settings):
    return create_scheduler_v2(over, num_epochs=6, warmup_epochs=0, updates_per_epoch=5, **settings)[0]


@pytest.mark.parametrize(
    'settings, lr, expected',
    [
        (dict(sched='step', decay_epochs=2, decay_rate=0.1), None, 0.4 * 0.01),
        (dict(sched='step', decay_epochs=3, decay_rate=0.1), None, 0.4 * 0.1),  # not the decay that epoch 6 would bring
        (dict(sched='multistep', decay_milestones=[2, 7], decay_rate=0.5), None, 0.4 * 0.5),
        (dict(sched='cosine'), None, 0.4 * (1 + math.cos(math.pi * 5 / 6)) / 2),
        (dict(sched='cosine', step_on_epochs=False), None, 0.4 * 0.01),
        (dict(sched='poly', decay_rate=4.0), None, 0.4 * 0.01),
        (dict(sched='cosine', min_lr=0.3), None, 0.3 + 0.1 * (1 + math.cos(math.pi * 5 / 6)) / 2),
        (dict(sched='cosine'), 0.07, 0.07),
        (dict(sched='step', decay_epochs=2, decay_rate=1e-4), None, 0.4 * 1e-8),  # a step schedule means its last step
    ],
)
def test_learning_rate_is_held(settings, lr, expected):
    over = optimizer({}, dict(lr_scale=0.5))
    scheduler = schedule(over, **settings)
    falling = settings['sched'] in ('cosine', 'poly')
    refinement = Refinement(
        Phases(6, 3), loader(), task(), lr=lr, least_share=0.01 if falling else 0.0, last_update=6 * 5 - 1
    )
    for epoch in range(6, 9):
        scheduler = refinement.hold_rate(epoch, over, scheduler)
        assert isinstance(scheduler, HeldRate)
        assert [group['lr'] for group in over.param_groups] == pytest.approx([expected, expected / 2])


def test_schedule_goes_on_before():
    over = optimizer()
    scheduler = schedule(over, sched='cosine')
    refinement = Refinement(Phases(6, 3), loader(), task())
    assert refinement.hold_rate(5, over, scheduler) is scheduler


def rows_of(run) -> list[dict[str, str]]:
    with open(run / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


ALL = (
    '--aa rand-m9-mstd0.5 --reprob 0.5 --mixup 0.5 --cutmix 1 --keep-paste --keep-cut --keep-size 8 --joint-occlusion '
    '--augment-copies 2 --grayscale-prob 0.2'
)


@pytest.mark.parametrize('flags', ['', '--no-prefetcher', '-j 2 --use-multi-epochs-loader'])
def test_whole_run(flags, data, tmp_path, monkeypatch, caplog):
    seen = []
    forward = ClassificationTask.forward

    def watched(self, input, target):
        seen.append((len(input), target.ndim))
        return forward(self, input, target)

    monkeypatch.setattr(ClassificationTask, 'forward', watched)
    caplog.set_level('INFO', logger='train')
    phases = '--epochs 2 --refine-epochs 2 --refine-fade 1 --val-interval 5'
    run = run_train(f'{data} {TINY} {phases} {ALL} {flags}', tmp_path)
    assert seen == [(32, 2)] * 6 + [(16, 1)] * 6
    rows = rows_of(run)
    assert [(row['epoch'], row['phase']) for row in rows] == [('1', 'fading'), ('3', 'refined')], 'ends are validated'
    assert all(float(row['risk_augmented']) > 0 and float(row['risk_clean']) > 0 for row in rows)
    said = [record.message for record in caplog.records if record.message.startswith('*** Refinement')]
    assert len(said) == 1 and '(epoch 1)' in said[0] and '(epoch 3)' in said[0]
    assert caplog.text.count('learning rate held') == 1


def test_resume_in_the_middle_of_the_phase(data, tmp_path, caplog):
    flags = f'{data} {TINY} --epochs 2 --sched step --decay-epochs 1 {ALL}'
    caplog.set_level('INFO', logger='train')
    run_train(f'{flags} --refine-epochs 1', tmp_path)
    assert 'Refinement: epoch 2 without' in caplog.text
    run = run_train(f'{flags} --refine-epochs 3 --resume {tmp_path}/run/last.pth.tar', tmp_path)
    rows = rows_of(run)
    assert [row['phase'] for row in rows] == ['augmented'] * 2 + ['refined'] * 3
    assert [float(row['lr']) for row in rows] == pytest.approx([0.05] + [0.005] * 4)
    assert 'after best' in caplog.text and 'epochs 3 to 4 without' in caplog.text
    # Nothing is left to do, and nothing to tell of in another folder.
    run_train(f'{flags} --refine-epochs 1 --resume {tmp_path}/run/last.pth.tar', tmp_path, 'other')
    assert 'Nothing to do: 5 epochs are done and the run ends after 3' in caplog.text


def test_refining_a_finished_run(data, tmp_path):
    """The rows of a run without our flags stay; what they lack is empty."""
    run_train(f'{data} {TINY} --epochs 2 --mixup 0.5', tmp_path)
    header = (tmp_path / 'run' / 'summary.csv').read_text().splitlines()[0]
    assert header == 'epoch,train_loss,eval_loss,eval_top1,eval_top5,lr'
    run = run_train(
        f'{data} {TINY} --epochs 2 --mixup 0.5 --refine-epochs 1 --resume {tmp_path}/run/last.pth.tar', tmp_path
    )
    rows = rows_of(run)
    assert list(rows[0]) == [*header.split(','), 'phase', 'risk_augmented', 'risk_clean']
    assert [row['phase'] for row in rows] == ['', '', 'refined'] and rows[0]['eval_top1']


# Crop and flip as well as all that is intensive.
MOVING = dict(INTENSIVE, scale=(0.1, 0.5), hflip=0.5, vflip=0.5)


@pytest.mark.parametrize(
    'settings', [dict(workers=2), dict(prefetcher=False), dict(train_crop_mode='rkrc', scale=(0.5, 0.9))]
)
def test_plain_epochs_have_whole_images(settings):
    """The very pixels of the files, of workers that run already too."""
    batches = loader(plain=True, **{**MOVING, **settings})
    refinement = Refinement(Phases(1, 1), batches, task())
    for epoch in range(2):
        refinement.set_strength(epoch)
        for images, target in batches:
            same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(images, plain_batch(target))]
            assert all(same) if epoch else not any(same)


def test_plain_crop_is_that_of_validation():
    settings = dict(input_size=(3, 24, 20), crop_pct=0.8, interpolation='bicubic')
    *steps, convert, normalize = create_transform(**settings, is_training=False).transforms
    expected = picture(3)
    for step in steps:
        expected = step(expected)
    assert whole_image(dict(settings, mean=(0.0, 0.0, 0.0)))(picture(3)).tobytes() == expected.tobytes()


def test_plain_pairs_and_copies():
    strength = shared_strength()
    whole = whole_image(dict(input_size=(3, 32, 32), crop_pct=1.0, interpolation='bilinear'))
    changes = TransformChanges(paired=True, copies=2, strength=strength, plain=True, whole=whole)
    transform = changes.apply(create_transform((3, 32, 32), is_training=True, auto_augment='rand-m9', hflip=1.0))
    strength.fill_(0.0)
    views = transform(picture(5))
    assert len(views) == 4 and all(torch.equal(view, views[0]) for view in views)


def test_refine_plain_on_the_command_line(data, tmp_path, caplog, monkeypatch):
    """Crop and flip end with the scheduled epochs, and the log says so."""
    seen = []
    call = Switched.__call__
    monkeypatch.setattr(
        Switched, '__call__', lambda self, image: seen.append(self.strength.item()) or call(self, image)
    )
    caplog.set_level('INFO')
    run_train(f'{data} {TINY} --epochs 1 --refine-epochs 1 --refine-plain --risk-samples 0', tmp_path)
    assert seen == [1.0] * 24 + [0.0] * 24
    for step in ('crop', 'left-right'):
        assert any(
            line.split()[0] == step and 'off from epoch 1 on (refinement)' in line
            for line in caplog.text.splitlines()
            if line.split()
        )
