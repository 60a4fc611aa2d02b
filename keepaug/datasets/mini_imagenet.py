"""Mini-ImageNet in the layout of Ravi and Larochelle: 100 classes of ImageNet, 600 images of 84x84 pixels each.

    images/*.jpg
    train.csv, val.csv, test.csv       `filename,label`, of 64, 16 and 20 classes

These files split the classes, for few-shot learning: no class is in two of them. Classification, as the papers on
augmentation do it, needs all classes in both splits: here a class gives its first 500 images, in the order of the
files, to training and the others to validation.
"""

from keepaug.datasets.listed_images import ListedImages, check_listed, find_unpacked, read_rows
from keepaug.datasets.splits import to_split

FILES = ('train.csv', 'val.csv', 'test.csv')
HEADER = ['filename', 'label']
TRAINING_SHARE = 5, 6


def read_mini_imagenet(root: str, split: str) -> ListedImages:
    """List the images of a split.

    Args:
        root: The folder with the three files and `images`, or the one it lies in as `mini-imagenet`.
        split: `train` or `validation`, or what timm also calls them, but not `test`, which names one of the files.

    Raises:
        ValueError: If the split is unknown or a file is missing, or is not as it was distributed.
    """
    split = to_split(split, 'keepaug/mini-imagenet')
    folder = find_unpacked(root, 'mini-imagenet', FILES[0])
    by_class: dict[str, list[str]] = {}
    for file in FILES:
        found: dict[str, list[str]] = {}
        for row in read_rows(folder / file, 2, separator=','):
            if row != HEADER:
                found.setdefault(row[1], []).append(row[0])
        shared = by_class.keys() & found.keys()
        if shared:
            raise ValueError(
                f'{folder / file} has images of the class {min(shared)}, as has an earlier file: these are not Ravi '
                "and Larochelle's splits by class."
            )
        by_class |= found
    class_to_idx = {name: index for index, name in enumerate(sorted(by_class))}
    samples = []
    for name, index in class_to_idx.items():
        images = by_class[name]
        border = len(images) * TRAINING_SHARE[0] // TRAINING_SHARE[1]
        samples += [(image, index) for image in (images[:border] if split == 'train' else images[border:])]
    check_listed(folder / 'images', (image for image, _ in samples), folder / FILES[0])
    return ListedImages(folder, [(folder / 'images' / image, index) for image, index in samples], class_to_idx)
