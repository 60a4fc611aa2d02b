"""Every recipe trains and judges as its paper says: learning rate of each epoch, optimizer, crops, augmentation."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import keepaug
import train
from keepaug import data, training
from keepaug.data.transform import find_changes, list_steps
from tests import test_recipes
from tests.test_recipes import ROOT, files_of, plain_commands

# Those of fine-tuning are of no paper.
BASES, DELTAS = (
    [path for path in paths if path.parent.name != 'finetune'] for paths in (test_recipes.BASES, test_recipes.DELTAS)
)


def name(recipe) -> str:
    return f'{recipe.parent.name}/{recipe.stem}'


def steps(lr: float, rate: float, *milestones: int) -> Callable[[int], float]:
    """The learning rate of epoch e, counted from 0: e epochs are done when it begins."""
    return lambda epoch: lr * rate ** sum(epoch >= milestone for milestone in milestones)


@dataclass
class Training:
    """How a paper trains.

    Attributes:
        epochs: Without those of refinement.
        lr: Learning rate of an epoch.
        weight_decay: Of every parameter.
        optimizer: Its form.
        refined: Epochs of refinement after the others.
        refined_lr: Their learning rate; None for that of the last epoch.
    """

    epochs: int
    lr: Callable[[int], float]
    weight_decay: float
    optimizer: str
    refined: int = 0
    refined_lr: float | None = None

    def learning_rates(self) -> list[float]:
        scheduled = [self.lr(epoch) for epoch in range(self.epochs)]
        return scheduled + [self.refined_lr or scheduled[-1]] * self.refined


TRAINING = {
    'cifar10/base-attentive-cutmix': Training(80, steps(1e-3, 1), 1e-5, 'Adam'),
    'cifar10/base-autoaugment': Training(
        300, lambda epoch: 0.1 * (1 + math.cos(math.pi * epoch / 300)) / 2, 5e-4, 'Nesterov momentum 0.9'
    ),
    'cifar10/base-cutmix': Training(300, steps(0.25, 0.1, 150, 225), 1e-4, 'Nesterov momentum 0.9'),
    'cifar10/base-cutout': Training(300, steps(0.1, 0.2, 90, 180, 240), 5e-4, 'Nesterov momentum 0.9'),
    'cifar10/base-refined-preact18': Training(400, steps(0.1, 0.1, 150, 275), 1e-4, 'momentum 0.9', refined=50),
    'cifar10/base-refined-wrn28-10': Training(400, steps(0.1, 0.2, 120, 240, 320), 5e-4, 'momentum 0.9', refined=50),
    'imagenet/base-attentive-cutmix': Training(100, steps(1e-3, 1), 1e-5, 'Adam'),
    'imagenet/base-cutmix': Training(300, steps(0.1, 0.1, 75, 150, 225), 1e-4, 'Nesterov momentum 0.9'),
    'imagenet/base-occlusions': Training(100, steps(0.1, 0.1, 30, 60, 90), 1e-4, 'momentum 0.9'),
    'imagenet/base-refined': Training(
        200, steps(0.1, 0.1, 60, 120, 180), 1e-4, 'momentum 0.9', refined=20, refined_lr=1e-4
    ),
    'imagenet/refined-autoaugment': Training(
        300, steps(0.1, 0.1, 75, 150, 225), 1e-4, 'momentum 0.9', refined=20, refined_lr=1e-4
    ),
}

# What a delta adds to its base's crop and flip: kind and settings of each step, as the log spells them.
ADDED = {
    'cifar10/attentive-cutmix': ['AttentiveCutMix; patches=6; grid=7; teacher_size=(224, 224); prob=1.0'],
    'cifar10/autoaugment': ['TorchvisionPolicy; cifar10'],
    'cifar10/cutmix': ['Mixup; mixup=0.0; cutmix=1.0; prob=0.5'],
    'cifar10/cutmix-center-gaussian': ['CutMixVariant; variant=center-gaussian; cutmix_alpha=1.0; prob=0.5'],
    'cifar10/cutmix-complete-label': ['CutMixVariant; variant=complete-label; cutmix_alpha=1.0; prob=0.5'],
    'cifar10/cutmix-fixed': ['CutMixVariant; variant=fixed; fixed_size=16; prob=0.5'],
    'cifar10/cutmix-one-hot': ['CutMixVariant; variant=one-hot; cutmix_alpha=1.0; prob=0.5'],
    'cifar10/cutmix-scheduled': ['CutMixVariant; variant=scheduled; cutmix_alpha=1.0; prob=1.0'],
    'cifar10/cutout': ['Cutout; size=16; holes=1; prob=1.0'],
    'cifar10/feature-cutmix': ['FeatureCutMix; stages=(1,); alpha=1.0; prob=0.5'],
    'cifar10/joint-cutout': ['JointOcclusion; mode=cutout; holes=6; size=8; only=False'],
    'cifar10/joint-hide-and-seek': ['JointOcclusion; mode=hide-and-seek; grid=4; keep_patch=0.5; only=False'],
    'cifar10/joint-saliency': ['JointOcclusion; mode=saliency; layer=maxpool; size=8; jitter=2; only=False'],
    'cifar10/keep-autoaugment': ['TorchvisionPolicy; cifar10', 'KeepPaste; size=16; tau=0.6; saliency=low; prob=1.0'],
    'cifar10/keep-randaugment': ['RandAugment; n=3; m=15; p=1.0', 'KeepPaste; size=8; tau=0.6; saliency=low; prob=1.0'],
    'cifar10/keepcutout': [
        'KeepCut; mode=cutout; fill=zero; size=16; tau=0.6; saliency=low; windows=overflow; prob=1.0'
    ],
    'cifar10/manifold-mixup': ['ManifoldMixup; alpha=1.0; prob=1.0'],
    'cifar10/randaugment': ['RandAugment; n=3; m=15; p=1.0'],
    'cifar10/refined-cutmix': ['Mixup; mixup=0.0; cutmix=1.0; prob=0.5'],
    'cifar10/refined-mixup': ['Mixup; mixup=1.0; cutmix=0.0; prob=1.0'],
    'imagenet/attentive-cutmix': ['AttentiveCutMix; patches=6; grid=7; prob=1.0'],
    'imagenet/autoaugment': ['AutoAugment'],
    'imagenet/copies-cutout': [
        'Copies; copies=2',
        'JointOcclusion; mode=cutout; holes=6; size=56; keep_image=0.5; only=True',
    ],
    'imagenet/cutmix': ['Mixup; mixup=0.0; cutmix=1.0; prob=1.0'],
    'imagenet/cutout': ['Cutout; size=112; holes=1; prob=1.0'],
    'imagenet/feature-cutmix': ['FeatureCutMix; stages=(0, 1, 2, 3, 4); alpha=1.0; prob=1.0'],
    'imagenet/joint-cutout': ['JointOcclusion; mode=cutout; holes=6; size=84; only=False'],
    'imagenet/joint-hide-and-seek': ['JointOcclusion; mode=hide-and-seek; grid=4; keep_patch=0.5; only=False'],
    'imagenet/joint-none': ['JointOcclusion; mode=none; only=False'],
    'imagenet/joint-saliency': ['JointOcclusion; mode=saliency; layer=maxpool; size=56; jitter=16; only=False'],
    'imagenet/keep-autoaugment': ['AutoAugment', 'KeepPaste; size=40; tau=0.6; saliency=low; prob=1.0'],
    'imagenet/keep-randaugment': [
        'RandAugment; n=2; m=9; p=1.0',
        'KeepPaste; size=40; tau=0.6; saliency=low; prob=1.0',
    ],
    'imagenet/keepcutmix': ['KeepCut; mode=cutmix; tau=0.6; saliency=low; windows=overflow; prob=1.0'],
    'imagenet/keepcutout': [
        'KeepCut; mode=cutout; fill=zero; size=40; tau=0.6; saliency=low; windows=overflow; prob=1.0'
    ],
    'imagenet/manifold-mixup': ['ManifoldMixup; alpha=1.0; prob=1.0'],
    'imagenet/randaugment': ['RandAugment; n=2; m=9; p=1.0'],
    'imagenet/refined-autoaugment': ['AutoAugment'],
    'imagenet/refined-mixup': ['Mixup; mixup=0.5; cutmix=0.0; prob=1.0'],
}


class Images(Dataset):
    """As many as the largest batch."""

    transform = None

    def __len__(self) -> int:
        return 256


def build(command: list[str], weights: bool = False) -> SimpleNamespace:
    """What `train.py` builds for a command before the first epoch; the model without weights unless they matter."""
    attentive = any(path.stem == 'attentive-cutmix' for path in files_of(command))
    teacher = ['--attentive-teacher', 'self'] if attentive else []  # no download
    args, _ = train._parse_args([*command, *teacher, '--device', 'cpu', '-j', '0'])
    args = keepaug.prepare(args)
    args.rank, args.world_size, args.distributed, args.prefetcher = 0, 1, False, False
    cpu = torch.device('cpu')
    with cpu if weights else torch.device('meta'):
        model, data_config = training.build_model(args, timm.create_model)
    mixup_fn, collate_fn = data.build_mixing(args)
    loader = data.build_train_loader(
        args, keepaug.wrap_dataset(Images(), args), data_config, cpu, torch.float32, collate_fn
    )
    loader_eval = data.build_eval_loader(args, Images(), data_config, cpu, torch.float32)
    task = keepaug.wrap_task(training.build_task(args, model, cpu, torch.float32), args)
    optimizer = training.build_optimizer(args, task)
    return SimpleNamespace(
        args=args,
        model=model,
        data_config=data_config,
        mixup_fn=mixup_fn,
        loader=loader,
        loader_eval=loader_eval,
        task=task,
        optimizer=optimizer,
    )


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def learning_rates(run) -> Iterator[float]:
    """As `train.py` steps through the epochs."""
    scheduler, epochs = training.build_scheduler(run.args, run.optimizer, 10, 0, decreasing_metric=False)
    phases = training.Phases(epochs, run.args.refine_epochs, run.args.refine_fade)
    refinement = training.build_refinement(run.args, phases, run.loader, run.mixup_fn, run.task)
    for epoch in range(phases.total):
        scheduler = refinement.hold_rate(epoch, run.optimizer, scheduler)
        yield training.mean_lr(run.optimizer)
        scheduler.step(epoch + 1)


def changing_steps(dataset: Dataset) -> Iterator[Callable]:
    """The steps of a training set's transform that change an image."""
    for step, _ in list_steps(dataset):
        if isinstance(step, transforms.ColorJitter):
            assert not any((step.brightness, step.contrast, step.saturation, step.hue))
        elif type(step).__name__ not in ('MaybeToTensor', 'Normalize'):
            yield step


def check_added(run, wanted: list[str]) -> None:
    """Crop and flip are the base's, and what comes on top is what the table says."""
    crop, flip, *added = changing_steps(run.loader.dataset)
    if run.data_config['input_size'] == (3, 32, 32):
        crop, flip, *added = flip, *added  # the first is Resize, which images of 32 px pass untouched
        assert crop.size == (32, 32) and crop.padding == (4, 4)
    else:
        assert crop.size == (224, 224) and crop.interpolation == InterpolationMode.BILINEAR
        assert crop.scale == (0.08, 1.0) and crop.ratio == pytest.approx((3 / 4, 4 / 3), 1e-4)
    assert isinstance(flip, transforms.RandomHorizontalFlip) and flip.p == 0.5
    assert run.args.smoothing == 0

    found = [str(step) for step in added]
    if (copies := find_changes(run.loader.dataset).copies) > 1:
        found.append(f'Copies(copies={copies})')
    if run.mixup_fn is not None:
        mixing = run.mixup_fn
        found.append(f'Mixup(mixup={mixing.mixup_alpha}, cutmix={mixing.cutmix_alpha}, prob={mixing.mix_prob})')
    if hasattr(run.task, 'augment'):
        found += map(repr, run.task.augment.augments)
    assert len(found) == len(wanted)
    for description, words in zip(found, wanted):
        kind, *settings = words.split('; ')
        assert description.startswith(f'{kind}(')
        for setting in settings:
            assert re.search(rf'(?<!\w){re.escape(setting)}(?![\w.])', description), (setting, description)


def check_optimizer(run, paper: Training) -> None:
    settings = run.optimizer.defaults
    form = type(run.optimizer).__name__
    if form == 'SGD':
        form = f'{"Nesterov " if settings["nesterov"] else ""}momentum {settings["momentum"]}'
    assert form == paper.optimizer
    (group,) = run.optimizer.param_groups  # one for all: biases and norms decay too
    assert group['weight_decay'] == paper.weight_decay
    assert len(group['params']) == len(list(run.model.parameters()))


@pytest.mark.parametrize('recipe', [*BASES, *DELTAS], ids=name)
def test_recipe(recipe):
    for command in plain_commands(recipe):
        paper = TRAINING.get(name(recipe)) or TRAINING[name(files_of(command)[0])]
        run = build(command, weights=recipe.stem in ('feature-cutmix', 'manifold-mixup'))
        check_added(run, ADDED.get(name(recipe), []))
        check_optimizer(run, paper)
        assert list(learning_rates(run)) == pytest.approx(paper.learning_rates(), rel=1e-9)


@pytest.mark.parametrize('recipe', BASES, ids=name)
def test_evaluation_crop(recipe):
    """ImageNet: the centre of 224 px of images whose shorter edge is 256, bilinear; CIFAR: whole images."""
    run = build(plain_commands(recipe)[0])
    image = Image.effect_noise((32, 32) if recipe.parent.name == 'cifar10' else (300, 350), 64).convert('RGB')
    published = {
        'cifar10': [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))],
        'imagenet': [
            transforms.Resize(256, InterpolationMode.BILINEAR),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ],
    }[recipe.parent.name]
    assert torch.equal(run.loader_eval.dataset.transform(image), transforms.Compose(published)(image))


# Attentive CutMix does not say whose ResNet it trains.
TORCHVISION = [path for path in BASES if path.parent.name == 'imagenet' and path.stem != 'base-attentive-cutmix']


@pytest.mark.parametrize('recipe', TORCHVISION, ids=name)
def test_residual_branches_start_as_in_torchvision(recipe):
    """timm's start at zero, where the saliency at the first block's first convolution is zero too."""
    model = build(plain_commands(recipe)[0], weights=True).model
    assert all(block.bn3.weight.eq(1).all() for block in model.layer1)


def test_every_delta_is_in_the_table():
    assert {name(path) for path in DELTAS} == set(ADDED)
    assert {name(path) for path in BASES} <= set(TRAINING)
