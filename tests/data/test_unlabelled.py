"""Groups of a labelled image and unlabelled ones, and what an epoch passes over."""

import csv
import shutil
from collections import Counter

import pytest
import torch
from timm.data import create_loader
from torch.utils.data import Dataset, RandomSampler
from torch.utils.data.distributed import DistributedSampler
from torchvision import transforms

from keepaug.data.seeding import EpochSampler
from keepaug.data.sets import open_image_folder
from keepaug.data.transform import TransformChanges, change_transform
from keepaug.data.unlabelled import (
    GroupedSamples,
    GroupSampler,
    Labelled,
    choose_labels,
    describe_further,
    labelled_numbers,
    list_labels,
    sample_groups,
)
from keepaug.data.views import Views
from keepaug.data.wrapped import WrappedDataset


class Numbers(Dataset):
    """Image n is the number n; its transform is asked for it. Classes take turns."""

    transform = None

    def __init__(self, count: int = 12, first: int = 0):
        self.targets = [n % 3 for n in range(count)]
        self.first = first

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = self.first + index
        return self.transform(image) if self.transform else image, self.targets[index]


class Pairs(WrappedDataset):
    """The number, and that plus a half."""

    def __getitem__(self, index):
        image, target = self.dataset[index]
        return Views((image, image + 0.5)), target


def label(numbers) -> Labelled:
    return Labelled(numbers, [number % 3 for number in numbers])


def make_groups(ratio: int = 2, numbers=(3, 7), **settings) -> GroupedSamples:
    samples = GroupedSamples(Pairs(Numbers()), label(numbers), ratio, **settings)
    samples.labelled = Numbers()
    return samples


def draw(samples: GroupedSamples, rank: int = 0, world_size: int = 1, seed: int = 0, epoch: int = 0):
    """The groups of an epoch, as one process sees them."""
    sampler = RandomSampler(samples)
    if world_size > 1:
        sampler = DistributedSampler(samples, world_size, rank)
        sampler.set_epoch(epoch)
    torch.manual_seed(seed)
    return [*GroupSampler(samples, sampler, rank, world_size)]


def test_a_group_is_a_labelled_image_and_pairs():
    samples = make_groups()
    images, target = samples[draw(samples)[0]]
    labelled, *unlabelled = images
    assert labelled in (3, 7) and target == labelled % 3
    assert len(unlabelled) == 4 and unlabelled[2:] == [image + 0.5 for image in unlabelled[:2]]
    assert samples[5] == (Views((5, 5.5)), 2)  # by a bare number


@pytest.mark.parametrize('ratio', [1, 2, 5])
def test_an_epoch_passes_over_the_unlabelled_images(ratio):
    samples = make_groups(ratio, further=Pairs(Numbers(3, first=12)))
    groups = draw(samples)
    seen = Counter(samples[group][0][1 + place] for group in groups for place in range(ratio))
    assert set(seen) == set(range(15)) and max(seen.values()) <= 2 and sum(seen.values()) == ratio * len(groups)
    labels = Counter(group.labelled for group in groups)
    assert max(labels.values()) - min(labels.values()) <= 1


def test_an_epoch_passes_over_the_labelled_images():
    samples = make_groups(epoch='labelled', numbers=range(12))
    groups = draw(samples)
    assert sorted(group.labelled for group in groups) == [*range(12)]
    assert Counter(image for group in groups for image in group.unlabelled) == dict.fromkeys(range(12), 2)


def test_groups_come_together_anew():
    samples = make_groups()
    drawn = [draw(samples, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    together = [{frozenset(group.unlabelled) for group in groups} for groups in drawn]
    assert together[0] != together[2]


@pytest.mark.parametrize('epoch', ['unlabelled', 'labelled'])
def test_processes_share_an_epoch(epoch):
    samples = make_groups(1, numbers=range(12) if epoch == 'labelled' else (0, 1, 2, 3), epoch=epoch)
    one, other = (draw(samples, rank, world_size=2) for rank in range(2))
    assert len(one) == len(other) == 6
    for part in ('labelled', 'unlabelled'):
        shares = Counter(getattr(group, part) for group in one + other)
        assert max(shares.values()) == min(shares.values())


def test_its_order_is_seeded_by_a_generator():
    samples = make_groups()
    orders = []
    for seed, epoch in (0, 0), (0, 0), (0, 1), (1, 0):
        sampler = EpochSampler(GroupSampler(samples, RandomSampler(samples)), seed)
        sampler.set_epoch(epoch)
        orders.append([request.sample for request in sampler])
    assert orders[0] == orders[1] and orders[0] != orders[2] and orders[0] != orders[3]


def test_labels_alone():
    samples = make_groups(labels_only=True)
    groups = draw(samples)
    assert len(groups) == 6 and all(samples[group][0] in (3, 7) for group in groups)


def test_labels_are_balanced_and_reproducible():
    drawn = [choose_labels(Numbers(300), 30, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].classes == [number % 3 for number in drawn[0].numbers]
    assert Counter(drawn[0].classes) == {0: 10, 1: 10, 2: 10}
    assert choose_labels(Numbers(5), None, 0) == (range(5), [0, 1, 2, 0, 1])


def test_the_list_of_labels(data):
    folder = open_image_folder(str(data / 'train'), 'RGB', '--data-dir')
    samples = GroupedSamples(folder, Labelled([1, 23], [0, 2]), 1)
    rows = [*csv.reader(list_labels(samples).splitlines())]
    assert rows == [
        ['number', 'class', 'name', 'file'],
        ['1', '0', 'class0', 'class0/01.png'],
        ['23', '2', 'class2', 'class2/07.png'],
    ]
    assert labelled_numbers(samples) == [1, 23] and len(labelled_numbers(folder)) == 24


@pytest.mark.parametrize(
    'name, problem',
    [('', 'holds no images'), ('nowhere', 'does not exist'), ('notes.txt', 'holds no images'), ('a.tar', 'no images')],
)
def test_a_folder_without_images(name, problem, tmp_path):
    for file in 'notes.txt', 'a.tar':
        (tmp_path / file).write_bytes(b'')
    with pytest.raises(ValueError, match=f'^--uda-data-dir {tmp_path / name} .*{problem}: name a folder') as error:
        open_image_folder(str(tmp_path / name), 'RGB', '--uda-data-dir')
    assert ('holds' in str(error.value)) == (name != 'nowhere')


def test_further_images_are_known_by_their_names(data, tmp_path):
    def describe(folder) -> str:
        further = open_image_folder(str(folder), 'RGB', '--uda-data-dir')
        return describe_further(make_groups(further=further))

    moved = shutil.copytree(data / 'val', tmp_path / 'moved')
    described = describe(data / 'val')
    assert describe(moved) == described and described.startswith('24 images')
    (moved / 'class0' / '00.png').rename(moved / 'class0' / 'other.png')
    assert describe(moved) not in (described, '') and describe_further(make_groups()) == ''


@pytest.mark.parametrize('prefetcher', [True, False])
def test_batches(prefetcher, data):
    """Labelled rows first, cropped alone; then all images before the policy; then the same crops after it."""
    folder = open_image_folder(str(data / 'train'), 'RGB', '--data-dir')
    changes = TransformChanges(paired=True, policy=transforms.RandomInvert(p=1.0))
    further = change_transform(open_image_folder(str(data / 'val'), 'RGB', '--uda-data-dir'), changes)
    samples = GroupedSamples(change_transform(folder, changes), Labelled([0, 9, 20], [0, 1, 2]), 3, further=further)
    loader = create_loader(
        samples,
        input_size=(3, 32, 32),
        batch_size=4,
        is_training=True,
        auto_augment='rand-m9',
        mean=(0, 0, 0),
        std=(1, 1, 1),
        num_workers=0,
        device=torch.device('cpu'),
        use_prefetcher=prefetcher,
        color_jitter=0.0,
    )
    sample_groups(loader, samples, 0, 1)
    assert len(loader) == 4
    for images, target in loader:
        assert images.shape == (28, 3, 32, 32) and target[:4].tolist() == [
            image.mean((1, 2)).argmax().item() for image in images[:4]
        ]
        assert torch.allclose(images[4:16] + images[16:], torch.ones(()), atol=1e-6)


def test_processes_share_one_permutation_whatever_their_streams():
    """Each process is seeded differently; no label is on two of them, and none is missing on both."""
    samples = make_groups(ratio=1, numbers=range(12), epoch='unlabelled')
    drawn = []
    for rank in range(2):
        torch.manual_seed(rank)
        sampler = DistributedSampler(samples, num_replicas=2, rank=rank)
        drawn.append([group.labelled for group in GroupSampler(samples, sampler, rank, 2)])
    assert sorted(drawn[0] + drawn[1]) == list(range(12))
