"""Where crops lie, from the transform that draws them to the batch."""

import pickle
import random

import pytest
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.data.transforms_factory import create_transform
from torchvision import transforms

import keepaug
from keepaug import options
from keepaug.data.crops import pad_crop
from keepaug.data.loaders import build_train_loader
from keepaug.data.places import (
    PLACE,
    PlacedCollate,
    PlacedSamples,
    TracedCrop,
    count_images,
    join_target,
    split_target,
)
from keepaug.data.seeding import plain_loader
from keepaug.data.sets import build_train_dataset
from keepaug.data.wrapped import Repeated
from keepaug.functional.saliency_maps import Places
from keepaug.methods import wrap_loader
from tests.readers import create_stream

RECYCLED = '--keep-cut --keep-saliency recycled'
MODES = ('rrc', 'rkrc', 'rkrr', 'pad4', 'no-aug')
SIZES = [(48, 48), (60, 37), (30, 90), (20, 24)]  # of images


def ramp(height: int, width: int) -> Image.Image:
    """An image whose pixels tell where they are: x in red, y in green, in units of a 250th of the image."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height * 250, (torch.arange(width) + 0.5) / width * 250, indexing='ij'
    )
    return Image.fromarray(torch.stack([x, y, torch.zeros(height, width)], -1).round().byte().numpy())


def crop_steps(mode: str, size: int = 32) -> list:
    settings = dict(no_aug=True) if mode == 'no-aug' else dict(vflip=0.5, color_jitter=0)
    if mode.startswith('rk'):
        settings['train_crop_mode'] = mode
    steps = create_transform((3, size, size), is_training=True, interpolation='bilinear', **settings).transforms
    crop = [
        step
        for step in steps
        if 'Tensor' not in type(step).__name__
        and 'Normalize' not in type(step).__name__
        and 'Jitter' not in type(step).__name__
    ]
    return [pad_crop((size, size)), *crop[1:]] if mode == 'pad4' else crop


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('height, width', SIZES)
def test_the_place_is_where_the_pixels_come_from(mode, height, width):
    image, places = ramp(height, width), []
    crop = TracedCrop(crop_steps(mode), places)
    torch.manual_seed(0)
    random.seed(0)
    for _ in range(20):
        result = transforms.functional.pil_to_tensor(crop(image)).permute(1, 2, 0).float()
        full_height, full_width, x0, y0, x1, y1, mirrored, turned = places[-PLACE:]
        h, w = result.shape[:2]
        x = x0 + (torch.arange(w) + 0.5) * (x1 - x0) / w
        y = y0 + (torch.arange(h) + 0.5) * (y1 - y0) / h
        x, y = (x.flip(0) if mirrored else x), (y.flip(0) if turned else y)
        inside = ((x > 1) & (x < full_width - 1))[None] & ((y > 1) & (y < full_height - 1))[:, None]
        assert inside.any()
        expected = torch.stack(torch.meshgrid(y / full_height, x / full_width, indexing='ij'), -1).flip(-1) * 250
        # As far as resizing keeps a ramp: a few units, which is less than a pixel of the crop.
        assert ((result[..., :2] - expected)[inside].abs() < 250 / min(h, w)).all()


@pytest.mark.parametrize('mode', MODES)
def test_tracing_changes_no_draw(mode):
    image, steps = ramp(60, 50), crop_steps(mode)
    results = []
    for crop in (transforms.Compose(steps), TracedCrop(steps, [])):
        torch.manual_seed(1)
        random.seed(1)
        results.append([crop(image).tobytes() for _ in range(5)])
    assert results[0] == results[1]


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(ValueError, match='unknown where RandomRotation'):
        TracedCrop([transforms.RandomRotation(10)], [])
    with pytest.raises(ValueError, match='one crop and flips'):
        TracedCrop([transforms.CenterCrop(8), transforms.Resize(8)], [])
    with pytest.raises(ValueError, match='one crop and flips'):
        TracedCrop([transforms.CenterCrop(8), transforms.CenterCrop(8)], [])


@pytest.mark.parametrize(
    'label', [3, torch.tensor(3), torch.tensor([0.0, 1.0, 0.25]), torch.tensor([0.1, 1.0]).numpy()]
)
def test_labels_come_through(label):
    dense = not isinstance(label, int) and label.ndim == 1
    joined = torch.stack([join_target(label, 2**40, range(16)), join_target(label, 7, range(16, 32))]).repeat(2, 1)
    target, where = split_target(joined, copies=2, dense=dense)
    assert len(target) == 4 and all(torch.equal(row, torch.as_tensor(label)) for row in target)
    assert target.dtype == (torch.float32 if dense else torch.int64)
    # All first copies, then all second ones.
    assert where[:, 0].tolist() == [2**40, 7, 2**40, 7]
    assert where[:, 1].tolist() == [0, 16, 8, 24] and where[:, -1].tolist() == [7, 23, 15, 31]


def test_repeated_images_have_one_number(data):
    dataset = create_dataset('', data, split='train')
    placed = PlacedSamples(Repeated(dataset, 2.5))
    assert len(placed) == 60 and count_images(placed) == placed.images == 24
    assert [placed[index][1][1] for index in (0, 23, 24, 59)] == [0, 23, 0, 11]


def build(data, flags: str):
    args = keepaug.prepare(
        options.create_parser().parse_args([str(data), '-b', '6', '-j', '0', *RECYCLED.split(), *flags.split()])
    )
    args.prefetcher, args.distributed, args.rank = not args.no_prefetcher, False, 0
    args.num_classes = 3
    config = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation='bilinear', crop_pct=1.0)
    dataset = keepaug.wrap_dataset(build_train_dataset(args, config), args)
    loader = build_train_loader(args, dataset, config, torch.device('cpu'), torch.float32, None)
    return wrap_loader(loader, dataset, args), dataset, args


@pytest.mark.parametrize(
    'flags',
    [
        '',
        '--no-prefetcher',
        '-j 2',
        '-j 1 --use-multi-epochs-loader',
        '--augment-copies 3',
        '--augment-copies 2 --no-prefetcher',
        '--train-img-sizes 24 32',
        '--exact-resume -j 1',
        '--train-crop-mode pad4',
        '--epoch-repeats 2 --train-crop-mode rkrr',
    ],
)
def test_batches_tell_where_their_crops_lie(flags, data):
    """Every row, label and image number belong together, whatever is between the transform and the loop."""
    loader, dataset, args = build(data, f'--color-jitter 0 --hflip 0.5 {flags}')
    labels = [label for _, label in dataset.reader.samples]
    seen = set()
    for x, joined in loader:
        target, where = split_target(joined, args.augment_copies)
        assert len(x) == len(target) == len(where)
        places = Places.from_rows(where)
        assert (target == torch.tensor(labels)[places.image]).all()
        assert (places.size == 32).all() or 'rk' in flags
        seen |= set(places.image.tolist())
        if args.augment_copies > 1:
            rows = places.box.view(args.augment_copies, -1, 4)
            assert (rows[0] != rows[1]).any()
    assert 12 < len(seen) <= 24


def test_the_pixels_of_a_batch_are_those_of_their_places(data):
    """A crop is found again in the image that its row names."""
    loader, dataset, args = build(data, '--color-jitter 0 --train-crop-mode pad4 --augment-copies 2 --hflip 0.5')
    images = [transforms.functional.pil_to_tensor(Image.open(path)) for path, _ in dataset.reader.samples]
    x, joined = next(iter(loader))
    _, where = split_target(joined, 2)
    for row, pixels in zip(where.tolist(), x):
        index, _, _, x0, y0, x1, y1, mirrored, _ = row
        padded = transforms.functional.pad(images[index], 8)
        crop = padded[:, y0 + 8 : y1 + 8, x0 + 8 : x1 + 8]
        crop = crop.flip(-1) if mirrored else crop
        assert torch.equal((pixels * 127.5 + 127.5).round().byte(), crop)


def test_it_travels_to_spawned_workers(data):
    loader, dataset, _ = build(data, '')
    again = pickle.loads(pickle.dumps(plain_loader(loader).dataset))
    placed, (target, index) = again[5]
    assert index == 5 and len(placed.places) == 8 and placed.views.shape == (3, 32, 32)
    assert isinstance(pickle.loads(pickle.dumps(plain_loader(loader).collate_fn)), PlacedCollate)


def test_streams_are_refused():
    args = keepaug.prepare(options.create_parser().parse_args(['data', *RECYCLED.split()]))
    with pytest.raises(ValueError, match='is a stream, but --keep-saliency recycled knows images by their number'):
        keepaug.wrap_dataset(create_stream(''), args)


def test_a_plain_loader_is_as_it_was(data):
    """Without recycled saliency no target is joined with anything."""
    args = keepaug.prepare(options.create_parser().parse_args([str(data), '--keep-cut']))
    dataset = keepaug.wrap_dataset(create_dataset('', data, split='train'), args)
    loader = create_loader(dataset, (3, 32, 32), 4, is_training=True, num_workers=0, device=torch.device('cpu'))
    assert next(iter(loader))[1].shape == (4,)


def test_images_for_a_loop_of_ones_own(data):
    transform = create_transform(32, is_training=True, scale=(0.3, 1.0))
    dataset = keepaug.PlacedImages(create_dataset('', data, split='train'), transform)
    x, target, where = next(iter(torch.utils.data.DataLoader(dataset, batch_size=5)))
    assert x.shape == (5, 3, 32, 32) and target.tolist() == [0] * 5 and where[:, 0].tolist() == [0, 1, 2, 3, 4]
    places = Places.from_rows(where)
    assert (places.size == 32).all() and (places.box[:, 2] > places.box[:, 0]).all() and (places.box <= 32).all()
