"""Labels of a data set, read without its images."""

import tarfile

import pytest
import torch
from PIL import Image
from timm.data import ImageDataset
from torch.utils.data import Dataset

from keepaug.data.labels import read_labels
from keepaug.data.sets import open_image_folder
from keepaug.data.wrapped import WrappedDataset


@pytest.fixture(autouse=True)
def blind(monkeypatch):
    """No image can be decoded."""
    monkeypatch.setattr(Image, 'open', lambda file: pytest.fail('An image was opened.'))


class Closed(Dataset):
    """Four samples that nobody may read; what it lists stands in attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        pytest.fail('A sample was read.')


class Rows:
    """A reader of timm's kind that lists nothing and gives files."""

    def __getitem__(self, index):
        return object(), index // 2


class Columns(Rows):
    """One of Hugging Face's sets, whose rows hold images."""

    def __getitem__(self, index):
        pytest.fail('A row was read.')

    def iter_targets(self):
        return iter([0, 0, 1, 1])


class Open(Dataset):
    """Samples that alone know their labels; the transform draws."""

    transform = staticmethod(lambda image: torch.rand(()))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        assert self.transform is None
        return None, torch.tensor(index // 2)


@pytest.mark.parametrize(
    'dataset',
    [
        Closed(targets=[0, 0, 1, 1]),
        Closed(targets=torch.tensor([0, 0, 1, 1])),
        Closed(target=lambda number: number // 2, targets=[9] * 4),
        Closed(samples=[('a', 0), ('b', 0), ('c', 1), ('d', 1)]),
        Closed(targets=['x', 'x', 'y', 'y'], target_transform=lambda name: 'xy'.index(name)),
        Closed(reader=Rows()),
        Closed(reader=Columns()),
        WrappedDataset(Closed(targets=[0, 0, 1, 1])),
    ],
)
def test_from_wherever_they_stand(dataset):
    labels = read_labels(dataset)
    assert labels == [0, 0, 1, 1] and {*map(type, labels)} == {int}


def test_of_folders_and_tar_files(data, tmp_path):
    assert read_labels(open_image_folder(str(data / 'train'), 'RGB', '--data-dir')) == [0] * 8 + [1] * 8 + [2] * 8
    with tarfile.open(tmp_path / 'train.tar', 'w') as file:
        file.add(data / 'train', '.')
    assert read_labels(ImageDataset(tmp_path / 'train.tar')) == [0] * 8 + [1] * 8 + [2] * 8


def test_of_samples_alone_without_their_transform():
    dataset, before = Open(), torch.get_rng_state()
    dataset.transform = Open.transform
    assert read_labels(WrappedDataset(dataset)) == [0, 0, 1, 1]
    assert dataset.transform is Open.transform and torch.equal(torch.get_rng_state(), before)
    lists_too_few, rows_of_numbers = Open(), Open()
    lists_too_few.targets, rows_of_numbers.targets = [0], torch.zeros(4, 8)
    assert read_labels(lists_too_few) == read_labels(rows_of_numbers) == [0, 0, 1, 1]
