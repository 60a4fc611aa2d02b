"""Pairs from timm's loader: the same crop before and after the policy, clean rows first, whatever the data set."""

import pickle
import random
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import IterableImageDataset, create_loader, create_transform
from torch.utils.data import Dataset, IterableDataset, default_collate
from torchvision import transforms

from keepaug import prepare, wrap_dataset
from keepaug.data.loaders import mend_posterize
from keepaug.data.transform import ChangedStreamTransform, TrainingTransform, TransformChanges
from keepaug.data.views import Views

POLICIES = ['original', 'originalr', 'v0', 'v0r', '3a', 'rand-m9-mstd0.5-inc1', 'rand-m15-n3', 'augmix-m5-w4-d2']
IDENTITY = 'rand-m9-n0'  # RandAugment of no operations
ARGS = prepare(Namespace(keep_paste=True, aa=IDENTITY))
COUNT = 12


@pytest.fixture(autouse=True)
def all_streams():
    """Crops draw from `random` and torch, policies from `random` and numpy."""
    states = random.getstate(), np.random.get_state()
    seed_all(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def photo(index: int = 0, mode: str = 'RGB') -> Image.Image:
    """Smooth colours and noise, no two images alike; its top left corner says which one it is."""
    rng = np.random.default_rng(index)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((60, 50), Image.Resampling.BICUBIC)
    return Image.fromarray(np.asarray(coarse) // 2 + rng.integers(0, 100, (50, 60, 3), dtype=np.uint8)).convert(mode)


class Folder(Dataset):
    """Images whose label is their number; `plain` ones are of the one colour that their label says."""

    transform = None

    def __init__(self, plain: bool = False):
        self.plain = plain

    def image(self, index: int) -> Image.Image:
        return Image.new('RGB', (40, 40), (20 * index, 7, 200)) if self.plain else photo(index)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.transform(self.image(index)), index


class Stream(IterableDataset):
    """Another person's iterable data set, which knows no epochs and no workers."""

    transform = None

    def __len__(self):
        return COUNT

    def __iter__(self):
        images = Folder(plain=True)
        return ((self.transform(images.image(index)), index) for index in range(COUNT))


class Reader:
    """What timm reads an iterable data set with."""

    def __init__(self):
        self.epoch, self.workers = None, None

    def __len__(self):
        return COUNT

    def __iter__(self):
        images = Folder(plain=True)
        return ((images.image(index), index) for index in range(COUNT))

    def set_epoch(self, count):
        self.epoch = count

    def set_loader_cfg(self, num_workers=None):
        self.workers = num_workers


DATASETS = {
    'folder': lambda: Folder(plain=True),
    'timms stream': lambda: IterableImageDataset('', reader=Reader()),
    'anothers stream': Stream,
}


def loader_of(dataset, policy: str | None = IDENTITY, batch_size: int = 4, **settings):
    """Batches of pixels in [0, 1]."""
    settings = {'mean': (0.0,) * 3, 'std': (1.0,) * 3, 'num_workers': 0, **settings}
    return create_loader(
        dataset,
        (3, 32, 32),
        batch_size=batch_size,
        is_training=True,
        auto_augment=policy,
        device=torch.device('cpu'),
        persistent_workers=False,
        **settings,
    )


def stock_transform(policy: str | None, **settings) -> transforms.Compose:
    return create_transform((3, 32, 32), is_training=True, **{'auto_augment': policy, 'vflip': 0.5, **settings})


def pair_up(transform: transforms.Compose) -> TrainingTransform:
    return TransformChanges(paired=True).apply(transform)


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('interpolation', ['random', 'bilinear'])
def test_both_sides_share_crop_flips_and_filter(prefetcher, interpolation):
    transform = pair_up(stock_transform(IDENTITY, use_prefetcher=prefetcher, interpolation=interpolation))
    seen = []
    for _ in range(40):
        clean, augmented = transform(photo())
        assert clean.shape == (3, 32, 32) and torch.equal(clean, augmented), 'a policy of nothing changes nothing'
        seen.append(clean)
    assert not any(torch.equal(one, other) for one, other in zip(seen, seen[1:])), 'crops are drawn anew'
    transform.policy = ImageOps.invert
    clean, augmented = transform(photo())
    # The conversion without prefetcher normalises, so that the sides are opposite about a mean.
    middle = (clean + augmented).float()
    assert torch.allclose(middle, middle[:, :1, :1].expand_as(middle), atol=1e-5) and not torch.equal(clean, augmented)


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('policy', POLICIES)
def test_clean_side_is_stocks_without_policy(policy, prefetcher):
    """Bit for bit: policy, jitter, grayscale and blur leave it alone, and nothing goes through 8 bits twice."""
    mend_posterize()
    settings = dict(use_prefetcher=prefetcher, mean=(0.5,) * 3, std=(0.5,) * 3)
    pair = pair_up(stock_transform(policy, grayscale_prob=1.0, gaussian_blur_prob=1.0, **settings))
    alone = stock_transform(None, color_jitter=None, **settings)
    for index in range(10):
        seed_all(index)
        clean, augmented = pair(photo())
        seed_all(index)
        assert torch.equal(clean, alone(photo()))
        assert torch.equal(augmented[0], augmented[1]) and not torch.equal(clean[0], clean[1]), 'only one side is grey'


@pytest.mark.parametrize('policy', POLICIES)
def test_augmented_side_is_stocks(policy):
    """What the pair's policy stage gives is what stock's transform gives, draw by draw."""
    mend_posterize()
    stock = stock_transform(policy, use_prefetcher=True)
    pair = pair_up(stock)
    for index in range(10):
        seed_all(index)
        _, augmented = pair(photo())
        seed_all(index)
        assert torch.equal(augmented, stock(photo()))


def test_grey_images():
    transform = pair_up(
        create_transform(
            (1, 32, 32), is_training=True, auto_augment='rand-m9-mstd0.5', mean=(0.5,), std=(0.5,), use_prefetcher=True
        )
    )
    for _ in range(20):
        assert [side.shape for side in transform(photo(mode='L'))] == [(1, 32, 32)] * 2


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', DATASETS)
def test_batches_hold_clean_rows_first(kind, workers, prefetcher):
    dataset = wrap_dataset(DATASETS[kind](), ARGS)
    loader = loader_of(dataset, num_workers=workers, use_prefetcher=prefetcher)
    labels = []
    for x, target in loader:
        assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32
        assert len(target) == (8 if prefetcher else 4)
        colour = (x[:, 0, 16, 16] * 255 / 20).round().long()
        assert torch.equal(colour[:4], target[:4]) and torch.equal(colour[4:], target[:4])
        assert torch.equal(x[:4], x[4:])
        labels += target[:4].tolist()
    # Each worker of a stream reads all of it here.
    assert set(labels) == set(range(COUNT)) and (workers and kind != 'folder' or len(labels) == COUNT)


def test_timms_stream_hears_of_epochs_and_workers():
    reader = Reader()
    dataset = wrap_dataset(IterableImageDataset('', reader=reader), ARGS)
    assert isinstance(dataset, ChangedStreamTransform) and isinstance(dataset, IterableImageDataset)
    loader = loader_of(dataset, num_workers=2)
    assert reader.workers == 2 and len(loader) == COUNT // 4
    loader.dataset.set_epoch(5)
    assert reader.epoch == 5


def test_crop_of_the_papers_is_exchanged_before_pairs_are_made():
    args = prepare(Namespace(keep_paste=True, aa=IDENTITY, train_crop_mode='pad4'))
    for dataset in (Folder(), IterableImageDataset('', reader=Reader())):
        dataset = wrap_dataset(dataset, args)
        loader_of(dataset, train_crop_mode=args.train_crop_mode)
        resize, crop = dataset.transform.crop.transforms[0].transforms
        assert isinstance(crop, transforms.RandomCrop)


@pytest.mark.parametrize('per_sample', [2, 4])
def test_views_of_any_number_are_collated_by_kind(per_sample):
    """Several pairs per sample: all clean views first, each kind in the order of the samples."""

    def view(sample, kind):
        return torch.full((1, 2, 2), 10.0 * kind + sample)

    batch = [(Views(view(sample, kind) for kind in range(per_sample)), sample) for sample in range(3)]
    x, target = default_collate(batch)
    assert x[:, 0, 0, 0].tolist() == [10.0 * kind + sample for kind in range(per_sample) for sample in range(3)]
    assert target.tolist() == [0, 1, 2]


@pytest.mark.parametrize('policy', POLICIES)
def test_travels_to_spawned_workers(policy):
    mend_posterize()
    dataset = wrap_dataset(Folder(), ARGS)
    loader_of(dataset, policy)
    sent = pickle.loads(pickle.dumps(dataset))
    (clean, augmented), label = sent[3]
    assert clean.shape == augmented.shape == (3, 32, 32) and label == 3 and type(sent[3][0]) is Views


@pytest.mark.slow
@pytest.mark.parametrize('prefetcher', [True, False])
def test_spawned_workers(prefetcher):
    mend_posterize()
    loader = loader_of(wrap_dataset(Folder(plain=True), ARGS), num_workers=1, use_prefetcher=prefetcher)
    (loader.loader if prefetcher else loader).multiprocessing_context = 'spawn'
    assert [x.shape for x, _ in loader] == [(8, 3, 32, 32)] * (COUNT // 4)


def test_loader_without_policy_is_refused():
    with pytest.raises(ValueError, match='no policy in the loader to make pairs .* auto_augment=args.aa'):
        loader_of(wrap_dataset(Folder(), ARGS), policy=None)
