"""Tiny-ImageNet as it is distributed (`tiny-imagenet-200.zip`): 200 classes of 64x64 pixels.

    wnids.txt                          the classes
    train/<class>/images/*.JPEG        500 images of each
    val/images/*.JPEG                  10,000 images
    val/val_annotations.txt            image, class, and the box of its object

The labels of its `test` are not distributed. Classes are numbered in alphabetical order, as an image folder would.
"""

from pathlib import Path

from timm.utils import natural_key

from keepaug.datasets.listed_images import ListedImages, check_listed, find_unpacked, list_images, read_rows
from keepaug.datasets.splits import to_split

ANNOTATION_COLUMNS = 6


def read_tiny_imagenet(root: str, split: str) -> ListedImages:
    """List the images of a split.

    Args:
        root: The folder `tiny-imagenet-200`, or the one it lies in.
        split: `train` or `validation`, or what timm also calls them, but not `test`.

    Raises:
        ValueError: If the split is unknown or a file is missing, or is not as it was distributed.
    """
    split = to_split(split, 'keepaug/tiny-imagenet')
    folder = find_unpacked(root, 'tiny-imagenet-200', 'wnids.txt')
    names = sorted(row[0] for row in read_rows(folder / 'wnids.txt', 1))
    class_to_idx = {name: index for index, name in enumerate(names)}
    if split == 'train':
        return ListedImages(folder, _training_images(folder, class_to_idx), class_to_idx)
    annotations, images = folder / 'val' / 'val_annotations.txt', folder / 'val' / 'images'
    rows = read_rows(annotations, ANNOTATION_COLUMNS)
    for image, name, *_ in rows:
        if name not in class_to_idx:
            raise ValueError(f'{annotations} has {image} in the class {name}, which {folder / "wnids.txt"} lacks.')
    check_listed(images, (row[0] for row in rows), annotations)
    samples = [(images / image, class_to_idx[name]) for image, name, *_ in rows]
    return ListedImages(folder, samples, class_to_idx, boxes_file=annotations)


def _training_images(folder: Path, class_to_idx: dict[str, int]) -> list[tuple[Path, int]]:
    samples = []
    for name, index in class_to_idx.items():
        images = folder / 'train' / name / 'images'
        found = [image for image in list_images(images) if image.endswith('.JPEG')]
        if not found:
            raise ValueError(
                f'{images} holds no JPEG, but {folder / "wnids.txt"} lists the class: unpack the archive again.'
            )
        samples += [(images / image, index) for image in sorted(found, key=natural_key)]
    return samples
