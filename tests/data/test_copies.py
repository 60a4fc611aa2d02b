"""Copies: each sample several times in one batch, decoded once, every copy drawn on its own."""
import pytest
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.task import ClassificationTask

from keepaug.data.copies import Copies, change_transform, collate_splits
from keepaug.data.wrapped import WrappedDataset
from tests.scripts import TINY, run_train


def count() -> list:
    """A transform that gives the number of its call, and the images it saw."""
    seen = []

    def transform(image):
        seen.append(image)
        return len(seen) - 1

    return transform, seen


def test_one_image_is_transformed_several_times():
    transform, seen = count()
    image = Image.new('RGB', (4, 4))
    assert Copies(transform, 3)(image) == (0, 1, 2)
    assert all(other is image for other in seen)


def test_views_of_a_kind_stay_together():
    transform, _ = count()
    assert Copies(lambda image: (f'clean {transform(image)}', 'augmented'), 2)(None) == (
        'clean 0', 'clean 1', 'augmented', 'augmented')


def test_collate_equals_timms_order():
    batch = [((torch.full((1, 2, 2), i), torch.full((1, 2, 2), 10 + i)), i) for i in range(3)]
    images, target = collate_splits(batch)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12] and target.tolist() == [0, 1, 2] * 2
    _, soft = collate_splits([(images, torch.tensor([label, 1. - label])) for images, label in batch])
    assert soft.shape == (6, 2) and torch.equal(soft[:3], soft[3:])


class Numbered(torch.utils.data.Dataset):
    """Image i is of colour i; notes how often each is decoded."""
    transform = None

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.decoded.append(index)
        return self.transform(Image.new('RGB', (32, 32), (index, 0, 100))), index


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('workers', [0, 2])
def test_through_timms_loader(prefetcher, workers):
    dataset = Numbered()
    loader = create_loader(
        WrappedDataset(dataset), (3, 32, 32), batch_size=4, is_training=True, no_aug=True, num_workers=workers,
        device=torch.device('cpu'), mean=(0., 0., 0.), std=(1., 1., 1.), use_prefetcher=prefetcher,
        collate_fn=None if prefetcher else collate_splits)
    change_transform(loader.dataset, lambda transform: Copies(transform, 3))
    seen = []
    for x, target in loader:
        assert x.shape == (12, 3, 32, 32)
        colours = (x[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(colours, target) and torch.equal(target, target[:4].repeat(3))
        seen += target[:4].tolist()
    assert sorted(seen) == list(range(12))
    assert workers or sorted(dataset.decoded) == list(range(12)), 'decoded once'


def test_copies_differ(data):
    dataset = create_dataset('', root=data, split='train')
    loader = create_loader(
        dataset, (3, 32, 32), batch_size=4, is_training=True, num_workers=0, device=torch.device('cpu'))
    change_transform(loader.dataset, lambda transform: Copies(transform, 2))
    x, _ = next(iter(loader))
    assert not any(torch.equal(one, other) for one, other in zip(x[:4], x[4:]))


def test_scheduled_sizes(data):
    dataset = create_dataset('', root=data, split='train')
    loader = create_loader(
        dataset, (3, 32, 32), batch_size=4, is_training=True, num_workers=0, device=torch.device('cpu'),
        input_size_choices=[32, 48], batch_size_choices=[4, 2])
    change_transform(loader.dataset, lambda transform: Copies(transform, 2))
    assert {tuple(x.shape) for x, _ in loader} <= {(8, 3, 32, 32), (4, 3, 48, 48)}


@pytest.mark.parametrize('flags, rows, soft', [
    ('', 24, False), ('--no-prefetcher', 24, False), ('-j 2', 24, False), ('--mixup 0.5', 24, True),
    ('--keep-cut --keep-size 8', 24, False), ('--joint-occlusion', 48, False),
    ('--joint-occlusion cutout --occlusion-only --cutmix 1 --no-prefetcher', 24, True),
])
def test_samples_count_once(flags, rows, soft, data, tmp_path, monkeypatch, caplog):
    """8 samples of 3 copies each; the learning rate and the log know 8."""
    seen = []
    forward = ClassificationTask.forward

    def watched(self, input, target):
        seen.append((len(input), target.shape))
        return forward(self, input, target)

    monkeypatch.setattr(ClassificationTask, 'forward', watched)
    caplog.set_level('INFO', logger='train')
    tiny = TINY.replace('--lr 0.05', '--lr-base 0.1 --lr-base-size 16')
    run_train(f'{data} {tiny} --epochs 1 --augment-copies 3 {flags}', tmp_path)
    assert seen == [(rows, (rows, 3) if soft else (rows,))] * 3
    assert 'Learning rate (0.05)' in caplog.text and 'batch size (8)' in caplog.text
    line = next(record.message for record in caplog.records if record.message.startswith('Train: 0 [   0'))
    seconds, rate = line.split('Time: ')[1].split('/s')[0].split('s,')
    assert float(rate) * float(seconds) == pytest.approx(8, rel=0.5)  # the time is printed in whole ms
