"""From flags to the augmentations of a run: which, in what order, with what."""

import pytest
import timm
from timm.task import ClassificationTask
from torch import nn

import keepaug
from keepaug import options
from keepaug.augment import CutMix, Cutout, KeepCut, KeepPaste, Mixup


def wrapped(line: str):
    """The task that a command line makes around a small model."""
    args = options.create_parser().parse_args(f'--model test_resnet --num-classes 3 --device cpu {line}'.split())
    model = timm.create_model('test_resnet', num_classes=3)
    return keepaug.wrap_task(ClassificationTask(model, verbose=False), keepaug.prepare(args))


@pytest.mark.parametrize(
    'line, kinds, rows',
    [
        ('--keep-paste --aa rand-m9', [KeepPaste], 2),
        ('--keep-paste --aa rand-m9 --keep-cut --mixup 0.2', [KeepPaste, KeepCut, Mixup], 2),
        ('--keep-paste --aa rand-m9 --cutout --cutmix 1', [KeepPaste, Cutout, CutMix], 2),
        ('--keep-paste --aa rand-m9 --keep-cut cutmix', [KeepPaste, KeepCut], 2),
        ('--keep-cut --mixup 0.2', [KeepCut, Mixup], 1),
    ],
)
def test_order_on_one_batch(line, kinds, rows):
    task = wrapped(line)
    assert [type(augment) for augment in task.augment.augments] == kinds
    assert task.rows_per_sample == rows


def test_settings_of_the_paste():
    line = '--keep-paste --aa rand-m9 --keep-tau 0.8 --keep-saliency low --keep-low-scale 0.25 --keep-prob 0.5'
    for size, edges in (
        ('', (None, None)),
        ('--keep-size 24', (24, 24)),
        ('--keep-paste-size 9', (9, None)),
        ('--keep-paste-size 9 --keep-size 24', (9, 24)),
    ):
        paste, cut = wrapped(f'{line} --keep-cut {size}').augment.augments
        assert (paste.size, cut.size) == edges
        assert (paste.tau, paste.prob, paste.source.kind, paste.source.low_scale) == (0.8, 0.5, 'low', 0.25)
    assert wrapped('--keep-paste --aa rand-m9 --keep-tau none').augment.augments[0].source is None


@pytest.mark.parametrize(
    'line, erasing',
    [
        ('', None),
        ('--reprob 0.3', (0.3, 'pixel', 1)),
        ('--reprob 0.3 --remode CONST --recount 2', (0.3, 'const', 2)),
        ('--reprob 0.3 --keep-cut', (0.3, 'pixel', 1)),
        ('--reprob 0.3 --keep-cut erase', None),
    ],
)
def test_erasing_beside_the_paste(line, erasing):
    eraser = wrapped(f'--keep-paste --aa rand-m9 {line}').augment.augments[0].eraser
    assert (eraser and (eraser.prob, eraser.fill, eraser.max_count)) == erasing


@pytest.mark.parametrize(
    'line, flag',
    [
        ('--keep-paste-size 170', '--keep-paste-size'),
        ('--keep-size 170', '--keep-size'),
        ('--keep-size 170 --keep-cut --keep-paste-size 8', '--keep-size'),
    ],
)
def test_a_window_larger_than_the_images_of_the_model(line, flag):
    with pytest.raises(ValueError, match=f'^{flag} must be at most 160 .* got 170'):
        wrapped(f'--keep-paste --aa rand-m9 {line}')


@pytest.mark.parametrize(
    'layer, reason',
    [
        ('', '--occlusion-layer must name a module of Sequential'),
        ('--occlusion-layer nowhere', '--occlusion-layer must name a module of Sequential, got nowhere'),
    ],
)
def test_a_layer_that_is_not_there_is_named_by_its_flag(layer, reason):
    args = options.create_parser().parse_args(f'--joint-occlusion saliency --img-size 8 {layer}'.split())
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    with pytest.raises(ValueError, match=f'^{reason}'):
        keepaug.wrap_task(ClassificationTask(model, verbose=False), keepaug.prepare(args))


def test_a_script_that_leaves_the_number_of_classes_to_the_model():
    """As stock's does at first; what mixes labels takes the model's, and says so where it does not tell."""
    args = keepaug.prepare(options.create_parser().parse_args('--cutout --cutmix 1 --img-size 8'.split()))
    model = timm.create_model('test_resnet', num_classes=3)
    task = keepaug.wrap_task(ClassificationTask(model, verbose=False), args)
    assert task.augment.augments[1].num_classes == 3 and args.num_classes is None
    unknown = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    with pytest.raises(ValueError, match='num_classes must be the number of classes, for labels are mixed'):
        keepaug.wrap_task(ClassificationTask(unknown, verbose=False), args)
