"""Generated data sets of a few images in the layouts of the distributed ones."""

from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ('n02124075', 'n01443537', 'n04067472')  # as distributed: not in alphabetical order
BIRDS = ('001.Black_footed_Albatross', '002.Laysan_Albatross')


def write_image(path: Path, level: int, size: int = 64) -> None:
    """A grey image, darker or brighter by its level, from 0 to 9, with a bright patch in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size, 3), 10 * level + 20, dtype=np.uint8)
    pixels[size // 4 : size // 2, size // 4 : size // 2] = 255
    Image.fromarray(pixels).save(path, 'JPEG')


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')


def write_tiny_imagenet(folder: Path, per_class: int = 12) -> Path:
    """`tiny-imagenet-200` of three classes, as many images of each in training, half as many in validation."""
    root = folder / 'tiny-imagenet-200'
    write_lines(root / 'wnids.txt', *WNIDS)
    annotations = []
    for level, name in enumerate(WNIDS):
        for image in range(per_class):
            write_image(root / 'train' / name / 'images' / f'{name}_{image}.JPEG', level)
        write_lines(root / 'train' / name / f'{name}_boxes.txt', f'{name}_0.JPEG\t0\t0\t63\t63')
    for image in range(per_class // 2 * len(WNIDS)):
        level = image % len(WNIDS)
        write_image(root / 'val' / 'images' / f'val_{image}.JPEG', level)
        annotations.append(f'val_{image}.JPEG\t{WNIDS[level]}\t16\t16\t31\t31')
    write_lines(root / 'val' / 'val_annotations.txt', *annotations)
    write_image(root / 'test' / 'images' / 'test_0.JPEG', 0)
    return root


def write_cub(folder: Path) -> Path:
    """`CUB_200_2011` of two classes and three images of each, the second of each to train on."""
    root = folder / 'CUB_200_2011'
    images = [f'{bird}/{bird[4:]}_{number:04d}.jpg' for bird in BIRDS for number in range(3)]
    for number, name in enumerate(images):
        write_image(root / 'images' / name, number)
    numbers = range(1, len(images) + 1)
    write_lines(root / 'images.txt', *(f'{n} {name}' for n, name in zip(numbers, images)))
    write_lines(root / 'classes.txt', *(f'{n} {bird}' for n, bird in enumerate(BIRDS, start=1)))
    write_lines(root / 'image_class_labels.txt', *(f'{n} {1 + (n > 3)}' for n in numbers))
    write_lines(root / 'train_test_split.txt', *(f'{n} {int(n % 3 == 2)}' for n in numbers))
    write_lines(root / 'bounding_boxes.txt', *(f'{n} {n}.0 16.0 15.0 20.0' for n in numbers))
    return root


def write_mini_imagenet(folder: Path, per_class: int = 6) -> Path:
    """`mini-imagenet` of six classes: three, one and two in its files."""
    root = folder / 'mini-imagenet'
    classes = [f'n0{number}' for number in range(6)]
    for file, names in (('train', classes[3:]), ('val', classes[:1]), ('test', classes[1:3])):
        lines = ['filename,label']
        for name in names:
            for number in range(per_class):
                image = f'{name}{per_class - number:04d}.jpg'
                write_image(root / 'images' / image, classes.index(name), size=84)
                lines.append(f'{image},{name}')
        write_lines(root / f'{file}.csv', *lines)
    return root
