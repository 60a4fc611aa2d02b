"""CUB-200-2011 as it is distributed (`CUB_200_2011.tgz`): 200 species of birds, split and boxes its own.

    classes.txt                number, class
    images.txt                 number, path below images/
    image_class_labels.txt     number, number of the class
    train_test_split.txt       number, 1 for training or 0 for testing
    bounding_boxes.txt         number, and the box of the bird

5,994 images to train on and 5,794 to test with, which is its validation split.
"""

from pathlib import Path

from keepaug.datasets.listed_images import ListedImages, check_listed, find_unpacked, read_rows
from keepaug.datasets.splits import to_split
from keepaug.ranges import any_of

IS_TRAINING = {'1': 'train', '0': 'validation'}


def read_cub(root: str, split: str) -> ListedImages:
    """List the images of a split.

    Args:
        root: The folder `CUB_200_2011`, or the one it lies in.
        split: `train` or `validation`, or what timm also calls them.

    Raises:
        ValueError: If the split is unknown or a file is missing, or is not as it was distributed.
    """
    split = to_split(split, 'keepaug/cub')
    folder = find_unpacked(root, 'CUB_200_2011', 'images.txt')
    paths = _read_pairs(folder / 'images.txt')
    classes = _read_pairs(folder / 'classes.txt')
    if list(classes) != [str(number) for number in range(1, len(classes) + 1)]:
        raise ValueError(f'{folder / "classes.txt"} does not count its classes from 1, as the distributed file does.')
    labels = _read_pairs(folder / 'image_class_labels.txt', keys=paths, values=classes, known=f'1 to {len(classes)}')
    parts = _read_pairs(folder / 'train_test_split.txt', keys=paths, values=IS_TRAINING, known=any_of(IS_TRAINING))
    numbers = [number for number in paths if IS_TRAINING[parts[number]] == split]
    check_listed(folder / 'images', (paths[number] for number in numbers), folder / 'images.txt')
    return ListedImages(
        folder,
        [(folder / 'images' / paths[number], int(labels[number]) - 1) for number in numbers],
        {name: int(number) - 1 for number, name in classes.items()},
        boxes_file=folder / 'bounding_boxes.txt',
    )


def _read_pairs(path: Path, keys: dict | None = None, values: dict | None = None, known: str = '') -> dict[str, str]:
    """The second column of a file by its first, which must be the same as `keys`.

    It must hold nothing but `values`, which are `known` in words.
    """
    rows = read_rows(path, 2)
    pairs = dict(rows)
    if len(pairs) < len(rows):
        raise ValueError(f'{path} has a number twice, unlike the distributed file: unpack the archive again.')
    if keys is not None and pairs.keys() != keys.keys():
        number = min(pairs.keys() ^ keys.keys())
        others = path.with_name('images.txt')
        raise ValueError(f'{path} and {others} list different images, {number} in only one of them.')
    for number, value in pairs.items():
        if values is not None and value not in values:
            raise ValueError(f'{path} has {value} for the image {number}, which must be {known}.')
    return pairs
