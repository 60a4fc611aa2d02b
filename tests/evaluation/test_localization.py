"""Localization: a model that reads one patch, maps drawn by hand, and slow loops for every number."""

import itertools
import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

from keepaug.evaluation.localization import (
    CENTRED,
    IOUS,
    THRESHOLDS,
    Examples,
    Found,
    Tally,
    best_overlaps,
    centred_boxes,
    describe_answer,
    largest_box,
    localization,
    to_unit,
)
from tests.evaluation.subjects import make_batches, make_subject
from tests.scripts import refuse_validate, run_validate, write_images


class Reader(nn.Module):
    """Features are the image in cells of 4 pixels; class 0 is its brightness, class 1 that of the second channel."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(2))

    def forward_features(self, x):
        return nn.functional.avg_pool2d(x, 4)

    def forward_head(self, features):
        return self.fc(features.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def patches(*places, size=32, channel=0):
    """Images (B, 2, size, size) that are bright in one box each."""
    x = torch.zeros(len(places), 2, size, size)
    for image, (x0, y0, x1, y1) in zip(x, places):
        image[channel, y0:y1, x0:x1] = 1
    return x


def subject(**changes):
    return make_subject(Reader(), channels=2, **changes)


def measure(x, target, boxes, batch_size=4, **settings):
    true = [torch.as_tensor(of_image, dtype=torch.float32).view(-1, 4) for of_image in boxes]
    return localization(subject(), make_batches(x, target, batch_size), true.__getitem__, **settings)


# Slow references.


def overlap(one, other):
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (area - width * height)


def flood(mask):
    """Regions of neighbours, by a corner too, as lists of (y, x)."""
    left, found = {(y, x) for y, x in zip(*np.nonzero(mask))}, []
    while left:
        todo, region = [left.pop()], []
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            for place in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if place in left:
                    left.remove(place)
                    todo.append(place)
        found.append(region)
    return found


def around(region):
    ys, xs = zip(*region)
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def maps(count, size=(24, 31)):
    """Blobs of random places, the range of each scaled to [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 6, 7, generator=generator)
    return to_unit(nn.functional.interpolate(coarse, size, mode='bilinear', align_corners=False))[:, 0].numpy()


def test_largest_region_as_flooding_finds_it():
    for scaled in maps(20):
        for threshold in (0.2, 0.5, 0.8):
            regions = sorted(flood(scaled >= threshold), key=len)
            if len(regions) == 1 or len(regions[-1]) > len(regions[-2]):  # of equals any will do
                assert tuple(largest_box(scaled, threshold).tolist()) == around(regions[-1])


def test_regions_hang_together_by_corners():
    drawn = np.zeros((8, 8), np.float32)
    drawn[1, 1] = drawn[2, 2] = drawn[3, 3] = 1
    drawn[6, 4:6] = 1
    assert largest_box(drawn, 0.5).tolist() == [1, 1, 4, 4]


def test_the_largest_region_has_most_pixels_not_the_widest_box():
    drawn = np.zeros((10, 10), np.float32)
    drawn[0:3, 0:3] = 0.5
    drawn[5, 2:10] = 1
    assert largest_box(drawn, 0.5).tolist() == [0, 0, 3, 3]
    assert largest_box(drawn, 0.51).tolist() == [2, 5, 10, 6]


def test_nothing_reaches_the_threshold_of_a_flat_map():
    flat = to_unit(torch.full((1, 1, 4, 4), 3.0))[0, 0].numpy()
    assert not flat.any() and largest_box(flat, 0.2) is None
    assert best_overlaps(flat, torch.tensor([[0.0, 0, 4, 4]]))[1:].max() == 0
    lost = to_unit(torch.full((1, 1, 4, 4), torch.nan))[0, 0].numpy()
    assert largest_box(lost, 0.2) is None


def test_best_overlap_of_every_threshold_as_flooding_finds_it():
    true = [(2, 3, 14, 20), (20, 1, 30, 9)]
    for scaled in maps(4):
        found = best_overlaps(scaled, torch.tensor(true, dtype=torch.float32))
        for threshold, value in zip(THRESHOLDS[::7], found[::7]):
            wanted = [overlap(around(region), box) for region in flood(scaled >= threshold) for box in true]
            assert value.item() == pytest.approx(max(wanted, default=0), abs=1e-6)


# The numbers of a set.


def test_a_model_that_reads_a_patch_localizes_it():
    places = [(0, 0, 12, 12), (8, 8, 24, 28), (20, 4, 32, 16), (4, 16, 16, 32)]
    report = measure(patches(*places), torch.zeros(4, dtype=torch.int64), [[place] for place in places])
    assert report.values['gt_known'] == report.values['top1'] == report.values['max_box_acc_v2'] == 100
    assert report.values['center'] < 50
    assert report.settings['map'] == 'class activation map'
    # Boxes that lie elsewhere.
    away = measure(patches(*places), torch.zeros(4, dtype=torch.int64), [[(28, 28, 32, 32)]] * 4)
    assert away.values['gt_known'] == 0


@pytest.mark.parametrize('height, fits', [(20, 1), (21, 0), (5, 1), (4.9, 0)])
def test_half_of_the_union_is_enough(height, fits):
    tally = Tally()
    tally.add(
        np.zeros((32, 32), np.float32), torch.tensor([0.0, 0, 10, 10]), torch.tensor([[0.0, 0, 10, height]]), True
    )
    assert tally.gt_known == tally.top1 == fits


def test_top1_needs_the_class_and_the_box():
    place, other = (4, 4, 16, 16), (20, 20, 32, 32)
    # Bright in the label's channel at the box; in the other channel, larger, elsewhere.
    x = patches(place, place, place, place)
    x[1, 1, 18:32, 16:32] = x[3, 1, 18:32, 16:32] = 1
    report = measure(x, torch.zeros(4, dtype=torch.int64), [[place], [place], [other], [other]])
    # All four maps are of the label and at `place`: the second is not predicted; the last two boxes are elsewhere.
    assert (report.values['gt_known'], report.values['top1']) == (50, 25)


def test_any_of_several_boxes_counts_and_an_image_without_one_is_left_out():
    place, other = (4, 4, 16, 16), (20, 20, 32, 32)
    report = measure(patches(place, place, place), torch.zeros(3, dtype=torch.int64), [[other, place], [], [other]])
    assert report.values['gt_known'] == 50
    assert (report.settings['images'], report.settings['left_out']) == (2, 1)
    with pytest.raises(ValueError, match='none of the 3 images .* has a box'):
        measure(patches(place, place, place), torch.zeros(3, dtype=torch.int64), [[], [], []])


def test_threshold_is_a_share_of_the_maximum():
    # A faint patch beside a bright one; only above 0.3 does the box let go of the faint one.
    x = patches((0, 0, 12, 12)) + 0.3 * patches((12, 0, 32, 12))
    target = torch.zeros(1, dtype=torch.int64)
    for threshold, is_whole in ((0.2, True), (0.6, False)):
        found = measure(x, target, [[(0, 0, 32, 12)]], cam_threshold=threshold)
        assert found.values['gt_known'] == 100 * is_whole
        assert found.values['max_box_acc_v2'] == 100  # at the threshold of its choice


def test_max_box_acc_v2_by_brute_force():
    torch.manual_seed(0)
    x = nn.functional.interpolate(torch.rand(9, 2, 6, 6), (24, 24))
    boxes = [[tuple(torch.randint(0, 10, (2,)).tolist() + torch.randint(14, 24, (2,)).tolist())] for _ in x]
    target = torch.arange(9) % 2
    scaled = to_unit(
        nn.functional.interpolate(nn.functional.avg_pool2d(x, 4)[range(9), target][:, None], (24, 24), mode='bilinear')
    )[:, 0].numpy()
    wanted = []
    for iou in IOUS:
        right = [
            sum(
                any(overlap(around(region), box) >= iou for region in flood(of_map >= threshold) for box in of_image)
                for of_map, of_image in zip(scaled, boxes)
            )
            for threshold in THRESHOLDS
        ]
        wanted.append(100 * max(right) / 9)  # one threshold for all images, another for each IoU
    for batch_size in (2, 9):
        values = measure(x, target, boxes, batch_size).values
        assert [values[f'max_box_acc_{round(100 * iou)}'] for iou in IOUS] == pytest.approx(wanted)
        assert values['max_box_acc_v2'] == pytest.approx(np.mean(wanted))
    assert 0 < values['max_box_acc_50'] < values['max_box_acc_30']


def test_center_by_brute_force():
    torch.manual_seed(0)
    boxes = [[tuple((torch.rand(2) * 16).tolist() + (16 + torch.rand(2) * 16).tolist())] for _ in range(30)]
    values = measure(torch.rand(30, 2, 32, 32), torch.zeros(30, dtype=torch.int64), boxes).values
    reached = {
        iou: max(
            sum(
                overlap((16 - 16 * edge, 16 - 16 * edge, 16 + 16 * edge, 16 + 16 * edge), box) >= iou
                for (box,) in boxes
            )
            for edge in CENTRED
        )
        for iou in IOUS
    }
    assert values['center'] == pytest.approx(100 * reached[0.5] / 30)
    assert values['center_max_box_acc_v2'] == pytest.approx(np.mean([100 * count / 30 for count in reached.values()]))
    assert centred_boxes((10, 20))[-1].tolist() == [0, 0, 20, 10]


def test_random_maps_are_as_good_as_chance():
    """Statistical: boxes of maps that look at nothing fit as often as boxes thrown anew."""
    generator = torch.Generator().manual_seed(0)
    scaled = maps(2000, (14, 14))
    found = torch.stack([largest_box(of_map, 0.6) for of_map in scaled])
    corner = torch.rand(2000, 2, generator=generator) * 7
    true = torch.cat([corner, corner + 7], 1)
    rates = []
    for shift in (0, 1, 7, 100):  # whichever map goes with which box
        pairs = zip(found.roll(shift, 0).tolist(), true.tolist())
        rates.append(np.mean([overlap(one, other) >= 0.5 for one, other in pairs]))
    assert max(rates) - min(rates) < 4 * (2 * rates[0] * (1 - rates[0]) / 2000) ** 0.5


def test_compared_classes():
    place = (4, 4, 16, 16)
    report = localization(
        subject(classes=[1]),
        make_batches(patches(place, channel=1), torch.tensor([0])),
        lambda index: torch.tensor([place], dtype=torch.float32),
    )
    assert report.values['top1'] == 100  # label 0 is the model's class 1


def test_picture_shows_both_boxes():
    place = (4, 4, 16, 16)
    report = measure(patches(place), torch.tensor([0]), [[(0, 8, 8, 24)]])
    colours = np.asarray(report.picture.convert('RGB')).reshape(-1, 3)
    assert {(255, 0, 0), (0, 255, 0)} <= set(map(tuple, colours))


def test_examples_are_of_different_classes():
    """As an image folder sorts them, by class; what is there of one class fills up what classes there are not."""

    def offer(*labels):
        examples = Examples(3)
        for number, label in enumerate(labels):
            examples.offer(Found(torch.tensor(number), None, None, None, label, 0))
        return [(found.label, found.image.item()) for found in examples.chosen]

    assert offer(0, 0, 0, 0, 1, 1, 2, 2, 3) == [(0, 0), (1, 4), (2, 6)]
    assert offer(1, 1, 0) == [(0, 2), (1, 0), (1, 1)]
    assert offer(5) == [(5, 0)] and offer() == []


def test_examples_are_called_by_their_names():
    found = Found(None, None, None, None, 1, 0)
    assert describe_answer(subject(), found) == '1, taken for 0'
    named = subject(names=['cat', 'dog'])
    assert describe_answer(named, found) == 'dog, taken for cat'
    assert describe_answer(named, found._replace(predicted=1)) == 'dog'


# By the script.

FLAGS = '--model test_vit --gp avg --model-kwargs patch_size=8 --img-size 40 --device cpu -j 0'
DIGITS = f'{FLAGS} --dataset keepaug/cluttered-digits --num-samples 12 --num-classes 10 -b 5'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'random.pth'
    torch.save(
        timm.create_model('test_vit', num_classes=10, global_pool='avg', img_size=40, patch_size=8).state_dict(), path
    )
    return path


def test_digits_bring_their_boxes(checkpoint, tmp_path, capsys):
    found = run_validate(
        f'{DIGITS} --checkpoint {checkpoint} --evaluate localization --analysis-dir {tmp_path}', capsys
    )
    keys = {
        'top1',
        'gt_known',
        'max_box_acc_v2',
        'max_box_acc_30',
        'max_box_acc_50',
        'max_box_acc_70',
        'center',
        'center_max_box_acc_v2',
    }
    assert {f'localization_{key}' for key in keys} <= set(found)
    written = next(iter(json.loads((tmp_path / 'localization.json').read_text()).values()))
    assert written['settings']['images'] == 12 and written['settings']['map'] == 'class activation map'
    assert (tmp_path / 'localization.png').exists()
    again = run_validate(
        f'{DIGITS} --checkpoint {checkpoint} --evaluate localization -b 12 --amp --amp-dtype bfloat16', capsys
    )
    assert again['localization_center'] == found['localization_center']


def test_an_image_folder_with_a_file_of_boxes(checkpoint, tmp_path, capsys):
    images = write_images(tmp_path / 'images', per_class=2)
    names = sorted(path.relative_to(images / 'val') for path in (images / 'val').rglob('*.png'))
    (tmp_path / 'boxes.csv').write_text(''.join(f'{name},0,0,32,32\n' for name in names[:4]))
    found = run_validate(
        f'{images} {FLAGS} --num-classes 10 --checkpoint {checkpoint} --evaluate localization --crop-pct 1 '
        f'--gt-boxes {tmp_path}/boxes.csv --analysis-dir {tmp_path}',
        capsys,
    )
    assert found['localization_center'] == found['localization_max_box_acc_v2'] == 100  # all of the image is a box
    written = next(iter(json.loads((tmp_path / 'localization.json').read_text()).values()))
    assert (written['settings']['images'], written['settings']['left_out']) == (4, 0)


@pytest.mark.parametrize(
    'flags, said',
    [
        ('{data} --evaluate localization', '--gt-boxes'),
        ('{data} --evaluate localization --gt-boxes nowhere.csv', 'nowhere.csv does not exist'),
        (
            '--dataset keepaug/cluttered-digits --evaluate localization --cam-threshold 0',
            '--cam-threshold must be above 0',
        ),
        ('--dataset keepaug/cluttered-digits --evaluate localization --tf-preprocessing', '--tf-preprocessing'),
    ],
)
def test_refusals(flags, said, tmp_path, capsys):
    flags = f'{flags.format(data=tmp_path)} --model test_resnet --num-classes 3 --device cpu'
    assert said in refuse_validate(flags, capsys)
