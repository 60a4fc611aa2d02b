"""Data sets in place of those whose packages are not among ours: several labels per image, and streams."""

import torch
from timm.data import IterableImageDataset
from torch.utils.data import Dataset
from torchvision import transforms


class SeveralLabels(Dataset):
    """24 images whose bright channels are their labels, any number of the three.

    Args:
        dense: Give labels as zeros and ones, not as indices.
    """

    def __init__(self, dense: bool):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.rand(24, 3, generator=generator) < 0.5
        self.images = 0.3 * torch.rand(24, 3, 32, 32, generator=generator) + 0.5 * self.labels[:, :, None, None]
        self.dense = dense
        self.transform = self.target_transform = None

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        labels = self.labels[index]
        labels = labels.long().tolist() if self.dense else labels.nonzero().flatten().tolist()
        image = transforms.functional.to_pil_image(self.images[index])
        return self.transform(image) if self.transform else image, self.target_transform(labels)


class Stream:
    """A reader of 24 images without random access, as those of tfds, wds and hfids are."""

    def __init__(self):
        self.epochs = []

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for label in range(24):
            yield transforms.functional.to_pil_image(torch.rand(3, 32, 32, generator=generator)), label % 3

    def __len__(self):
        return 24

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def create_several_labels(name, **kwargs) -> SeveralLabels:
    """Stands for `timm.data.create_dataset`."""
    return SeveralLabels(dense=kwargs['target_format'] == 'multihot')


def create_stream(name, root=None, **kwargs) -> IterableImageDataset:
    """Stands for `timm.data.create_dataset`."""
    return IterableImageDataset(root, reader=Stream())
