"""Data sets by name, read from where their archives were unpacked: generated miniatures of the distributed layouts."""

import os
from pathlib import Path

import pytest

from keepaug.data.wrapped import Selection
from keepaug.datasets import UNPACKED_DATASETS, create_embedded_dataset
from keepaug.datasets.listed_images import check_listed
from keepaug.evaluation.boxes import TrueBoxes
from tests.datasets.miniatures import BIRDS, WNIDS, write_cub, write_lines, write_mini_imagenet, write_tiny_imagenet
from tests.scripts import refuse_train, refuse_validate, run_train, run_validate

WRITERS = {
    'keepaug/cub': write_cub,
    'keepaug/mini-imagenet': write_mini_imagenet,
    'keepaug/tiny-imagenet': write_tiny_imagenet,
}
every_set = pytest.mark.parametrize('name', UNPACKED_DATASETS)


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """A miniature of each; tests leave them as they are."""
    return {name: write(tmp_path_factory.mktemp('unpacked')) for name, write in WRITERS.items()}


def create(name, root, split='train'):
    return create_embedded_dataset(name, split, root=str(root))


def read(dataset):
    """Label and brightness, in the corner, of each image."""
    return [(target, image.getpixel((0, 0))[0]) for image, target in (dataset[i] for i in range(len(dataset)))]


def close(found, expected):
    return [t for t, _ in found] == [t for t, _ in expected] and all(
        abs(a - b) < 4 for (_, a), (_, b) in zip(found, expected)
    )


@every_set
def test_both_splits(name, roots):
    train, validation = (create(name, roots[name], split) for split in ('train', 'val'))
    assert train.reader.class_to_idx == validation.reader.class_to_idx
    names = [set(dataset.filenames(absolute=True)) for dataset in (train, validation)]
    assert not names[0] & names[1]
    assert len(names[0]) == len(train) and len(names[1]) == len(validation)
    labels = sorted(train.reader.class_to_idx.values())
    for dataset in (train, validation):
        assert sorted({target for _, target in (dataset[i] for i in range(len(dataset)))}) == labels
        assert not os.path.isabs(dataset.filename(0)) and dataset.filename(0, basename=True).count('/') == 0


@every_set
def test_the_folder_that_the_archive_lies_in_will_do(name, roots):
    inside, above = create(name, roots[name]), create(name, roots[name].parent)
    assert above.filenames(absolute=True) == inside.filenames(absolute=True)


def test_tiny_imagenet(roots):
    root = roots['keepaug/tiny-imagenet']
    train, validation = create('keepaug/tiny-imagenet', root), create('keepaug/tiny-imagenet', root, 'validation')
    assert train.reader.class_to_idx == {'n01443537': 0, 'n02124075': 1, 'n04067472': 2}
    level = {0: 30, 1: 20, 2: 40}
    assert close(read(train), [(label, level[label]) for label in (0, 1, 2) for _ in range(12)])
    assert train.filename(2) == 'train/n01443537/images/n01443537_2.JPEG'
    assert train.filename(11) == 'train/n01443537/images/n01443537_11.JPEG'  # numbers in order, not their digits
    assert close(read(validation), [(label, level[label]) for _ in range(6) for label in (1, 0, 2)])
    assert TrueBoxes(validation, None)(4).tolist() == [[16, 16, 32, 32]]


def test_cub(roots):
    train, test = (create('keepaug/cub', roots['keepaug/cub'], split) for split in ('train', 'test'))
    assert train.reader.class_to_idx == {BIRDS[0]: 0, BIRDS[1]: 1}
    assert close(read(train), [(0, 30), (1, 60)])
    assert close(read(test), [(0, 20), (0, 40), (1, 50), (1, 70)])
    boxes = TrueBoxes(test, None)
    assert [boxes(index).tolist() for index in (0, 3)] == [[[1, 16, 16, 36]], [[6, 16, 21, 36]]]


def test_mini_imagenet(roots):
    """Each class gives its first five of six images, in the order of the files, to training."""
    root = roots['keepaug/mini-imagenet']
    train, validation = (create('keepaug/mini-imagenet', root, split) for split in ('train', 'val'))
    assert train.reader.class_to_idx == {f'n0{number}': number for number in range(6)}
    assert close(read(train), [(label, 20 + 10 * label) for label in range(6) for _ in range(5)])
    assert validation.filenames() == [f'images/n0{label}0001.jpg' for label in range(6)]


@every_set
def test_wrapped_sets_know_their_boxes_too(name, roots):
    dataset = Selection(create(name, roots[name], 'val'), [0, 1])
    if name == 'keepaug/mini-imagenet':
        with pytest.raises(ValueError, match='needs boxes'):
            TrueBoxes(dataset, None)
    else:
        assert TrueBoxes(dataset, None)(1).shape == (1, 4)


@pytest.mark.parametrize(
    'name, file',
    [
        ('keepaug/tiny-imagenet', 'wnids.txt'),
        ('keepaug/tiny-imagenet', 'val/val_annotations.txt'),
        ('keepaug/tiny-imagenet', 'val/images/val_7.JPEG'),
        ('keepaug/cub', 'images.txt'),
        ('keepaug/cub', 'classes.txt'),
        ('keepaug/cub', 'image_class_labels.txt'),
        ('keepaug/cub', 'train_test_split.txt'),
        ('keepaug/cub', f'images/{BIRDS[1]}/{BIRDS[1][4:]}_0002.jpg'),
        ('keepaug/mini-imagenet', 'train.csv'),
        ('keepaug/mini-imagenet', 'test.csv'),
        ('keepaug/mini-imagenet', 'images/n030001.jpg'),
    ],
)
def test_a_missing_file_is_named(name, file, tmp_path):
    root = WRITERS[name](tmp_path)
    (root / file).unlink()
    with pytest.raises(ValueError, match=file):
        create(name, root, 'val')


def test_a_missing_folder_of_a_class_is_named(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    (root / 'train' / WNIDS[2] / 'images').rename(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match=f'train/{WNIDS[2]}/images holds no JPEG'):
        create('keepaug/tiny-imagenet', root)


@pytest.mark.parametrize(
    'name, file, lines, words',
    [
        (
            'keepaug/tiny-imagenet',
            'val/val_annotations.txt',
            ['val_0.JPEG n0 1 1 2 2'],
            'in the class n0, which .*wnids',
        ),
        ('keepaug/tiny-imagenet', 'val/val_annotations.txt', ['val_0.JPEG n0 1'], 'line 1: .* not have the 6 columns'),
        ('keepaug/tiny-imagenet', 'val/val_annotations.txt', ['', 'val_0.JPEG n0 1'], 'val_annotations.txt, line 2: '),
        ('keepaug/tiny-imagenet', 'wnids.txt', [''], 'wnids.txt is empty'),
        ('keepaug/cub', 'image_class_labels.txt', ['1 1'], 'list different images'),
        (
            'keepaug/cub',
            'image_class_labels.txt',
            [f'{n} 3' for n in range(1, 7)],
            'has 3 for the image 1, which must be 1 to 2',
        ),
        (
            'keepaug/cub',
            'train_test_split.txt',
            [f'{n} 2' for n in range(1, 7)],
            'has 2 for the image 1, which must be 1 or 0',
        ),
        ('keepaug/cub', 'train_test_split.txt', ['1 1', '1 0'], 'has a number twice'),
        ('keepaug/cub', 'classes.txt', [f'0 {BIRDS[0]}', f'1 {BIRDS[1]}'], 'does not count'),
        ('keepaug/mini-imagenet', 'val.csv', ['n030001.jpg,n03'], 'images of the class n03, as has an earlier file'),
    ],
)
def test_a_file_that_is_not_as_distributed_is_named(name, file, lines, words, tmp_path):
    root = WRITERS[name](tmp_path)
    write_lines(root / file, *lines)
    with pytest.raises(ValueError, match=words):
        create(name, root, 'val')


@pytest.mark.parametrize(
    'gone, words',
    [(1, '2.jpg is missing, though .* lists it:'), (2, '1.jpg and 1 more .* are missing, .* lists them:')],
)
def test_how_many_images_are_missing(gone, words, tmp_path):
    for number in range(3 - gone):
        write_lines(tmp_path / f'{number}.jpg')
    with pytest.raises(ValueError, match=words):
        check_listed(tmp_path, [f'{number}.jpg' for number in range(3)], tmp_path / 'images.txt')


@pytest.mark.parametrize('name', ['keepaug/tiny-imagenet', 'keepaug/mini-imagenet'])
def test_there_is_no_labelled_test_split(name, roots):
    with pytest.raises(ValueError, match="split = 'test' is not a split of this data set: use one of train"):
        create(name, roots[name], 'test')


def test_what_makes_no_sense_is_refused(roots):
    with pytest.raises(ValueError, match='keepaug/cub needs the folder'):
        create_embedded_dataset('keepaug/cub')
    with pytest.raises(ValueError, match='num_samples = 5 is not possible for keepaug/cub'):
        create_embedded_dataset('keepaug/cub', num_samples=5, root=str(roots['keepaug/cub']))
    with pytest.raises(ValueError, match='keepaug/mnist.*keepaug/cub'):
        create_embedded_dataset('keepaug/mnist')


SCRIPT = '--model test_resnet --img-size 32 -b 8 --device cpu'


def test_training_and_localization_by_name(roots, tmp_path, capsys):
    root = roots['keepaug/tiny-imagenet']
    flags = f'{root} --dataset keepaug/tiny-imagenet --num-classes 200 {SCRIPT}'
    run_train(f'{flags} --epochs 1 --warmup-epochs 0 -j 0 --keep-cut --keep-size 8', tmp_path)
    result = run_validate(
        f'{flags} --crop-pct 1 --workers 0 --checkpoint {tmp_path}/run/last.pth.tar --evaluate localization', capsys
    )
    assert 'localization' in str(result)


def test_scripts_ask_for_the_folder(roots, tmp_path, capsys):
    said = refuse_train(f'--dataset keepaug/cub --num-classes 200 {SCRIPT}', tmp_path, capsys)
    assert '--dataset keepaug/cub needs the folder that its archive was unpacked to' in said
    said = refuse_train(f'{roots["keepaug/cub"]} --dataset Keepaug/Cub --num-classes 200 {SCRIPT}', tmp_path, capsys)
    assert '--dataset Keepaug/Cub is unknown' in said and 'keepaug/cub' in said  # timm would read it as a folder
    said = refuse_train(f'{tmp_path} --dataset keepaug/cub --num-classes 200 {SCRIPT}', tmp_path, capsys)
    assert f'{tmp_path} has no images.txt: it must be the folder CUB_200_2011' in said
    said = refuse_validate(
        f'{roots["keepaug/mini-imagenet"]} --dataset keepaug/mini-imagenet {SCRIPT} --evaluate localization', capsys
    )
    assert '--gt-boxes' in said


def test_unreadable_images_are_named(tmp_path, capsys):
    root = write_cub(tmp_path)
    for image in Path(root, 'images').rglob('*.jpg'):
        image.write_bytes(b'no image')
    said = refuse_train(f'{root} --dataset keepaug/cub --num-classes 200 {SCRIPT} -b 1 -j 0', tmp_path, capsys)
    assert 'Black_footed_Albatross_0001.jpg' in said
