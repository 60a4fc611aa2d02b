"""Labels do not shift: both scripts number classes by one list, and say what a split lacks or refuse what it adds."""

import json
import logging
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

import keepaug
import train
from keepaug import data
from keepaug.export.command import main as export
from tests.scripts import TINY, refuse_train, refuse_validate, run_train, run_validate, write_images

CLASSES = 4
RUN = TINY.replace('--num-classes 3', f'--num-classes {CLASSES}')
COMMON = f'--model test_resnet --img-size 32 --num-classes {CLASSES} --device cpu -j 0 -b 8'
NUMBERS = {f'class{index}': index for index in range(CLASSES)}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run on images of four classes, of which the fourth looks like the first, and its data."""
    folder = write_images(tmp_path_factory.mktemp('images'), classes=CLASSES)
    return folder, run_train(f'{folder} {RUN} --epochs 4', tmp_path_factory.mktemp('runs'))


@pytest.fixture
def images(run, tmp_path):
    """A copy of the data, to be spoiled."""
    return Path(shutil.copytree(run[0], tmp_path / 'images'))


def analyse(flags: str, capsys, tmp_path) -> dict[str, float]:
    """The accuracy of each class that has images, by name."""
    run_validate(f'{COMMON} {flags} --analysis-dir {tmp_path}/out', capsys)
    classes = json.loads((tmp_path / 'out' / 'analysis.json').read_text())['classes']
    return {row['name']: row['accuracy'] for row in classes if row['images']}


def warnings(caplog) -> str:
    return '\n'.join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)


def parse(*words: str):
    return keepaug.prepare(train._parse_args([*map(str, words), *RUN.split()])[0])


def test_a_run_records_its_classes_where_stock_looks_for_nothing(run):
    checkpoint = torch.load(run[1] / 'last.pth.tar', weights_only=False)
    assert checkpoint['args'].class_to_idx == NUMBERS
    assert 'class_to_idx' not in (run[1] / 'args.yaml').read_text()


@pytest.mark.parametrize('missing', ['class0', 'class2'])
@pytest.mark.parametrize('empty', [False, True])
def test_a_missing_class_moves_no_label(missing, empty, run, images, tmp_path, capsys, caplog):
    before = analyse(f'{run[0]} --checkpoint {run[1]}/last.pth.tar', capsys, tmp_path)
    assert sum(before.values()) / CLASSES > 60
    for path in (images / 'val' / missing).iterdir():
        path.unlink()
    if not empty:
        (images / 'val' / missing).rmdir()
    after = analyse(f'{images} --checkpoint {run[1]}/last.pth.tar', capsys, tmp_path)
    assert after == {name: accuracy for name, accuracy in before.items() if name != missing}
    assert f'val has no images of the class {missing}, which --checkpoint' in warnings(caplog)


def test_a_class_the_list_lacks_is_refused_by_name(run, images, tmp_path, capsys):
    shutil.copytree(images / 'val' / 'class0', images / 'val' / 'bat')
    checkpoint = f'{run[1]}/last.pth.tar'
    said = refuse_validate(f'{images} {COMMON} --checkpoint {checkpoint}', capsys)
    assert f'val has the class bat, which --checkpoint {checkpoint} lacks' in said
    for check in '', ' --check':
        said = refuse_train(f'{images} {RUN}{check}', tmp_path, capsys)
        assert f'val has the class bat, which {images}/train lacks' in said and not (tmp_path / 'run').exists()
    for split in 'val', 'train':
        (images / split / 'class0').rename(images / split / 'ant')
    shutil.rmtree(images / 'val' / 'bat')
    said = refuse_validate(f'{images} {COMMON} --checkpoint {checkpoint}', capsys)
    assert 'the class ant, ' in said and 'no images of the class class0' in said and '--class-map' in said
    # Numbers for the present names; the same labels then.
    (tmp_path / 'names.txt').write_text('ant\nclass1\nclass2\nclass3\n')
    renamed = run_validate(f'{images} {COMMON} --checkpoint {checkpoint} --class-map {tmp_path}/names.txt', capsys)
    assert renamed == run_validate(f'{run[0]} {COMMON} --checkpoint {checkpoint}', capsys)


@pytest.mark.parametrize('missing', ['train', 'val'])
def test_training_numbers_both_splits_alike(missing, images, tmp_path, capsys, caplog):
    shutil.rmtree(images / missing / 'class1')
    if missing == 'train':
        assert 'val has the class class1, which' in refuse_train(f'{images} {RUN}', tmp_path, capsys)
        return
    args = parse(images)
    data.check_class_folders(args)
    config = dict(input_size=(3, 32, 32))
    training, validation = data.build_train_dataset(args, config), data.build_eval_dataset(args, config)
    for dataset in training, validation:
        assert {(Path(path).parent.name, index) for path, index in dataset.reader.samples} <= NUMBERS.items()
    said = 'val has no images of the class class1, which'
    assert warnings(caplog).count(said) == 1
    args.check = True
    data.check_class_folders(args)
    assert warnings(caplog).count(said) == 2


def test_what_is_no_class_moves_no_label(run, images, tmp_path, capsys, caplog):
    for split in 'train', 'val':
        image = next((images / split / 'class1').iterdir())
        for place in '.ipynb_checkpoints', 'class1/.ipynb_checkpoints', '.trash/class0', '.':
            (images / split / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, images / split / place / 'a.png')
    last = torch.load(run_train(f'{images} {RUN} --epochs 4', tmp_path) / 'last.pth.tar', weights_only=False)
    stock = torch.load(run[1] / 'last.pth.tar', weights_only=False)
    assert all(torch.equal(last['state_dict'][name], stock['state_dict'][name]) for name in stock['state_dict'])
    assert last['metric'] == stock['metric']
    for word in '.ipynb_checkpoints', '.trash', 'beside its class folders':
        assert warnings(caplog).count(word)
    said = refuse_train(f'{images} {RUN} --num-classes 3', tmp_path, capsys)
    assert 'has 4 classes (class0, class1, class2 and class3)' in said


@pytest.mark.parametrize(
    'spoil, words',
    [
        (
            lambda split: (split / 'class1' / 'up').symlink_to(split),
            'class1/up links to a folder that contains it',
        ),
        (lambda split: (split / 'up').symlink_to(split.parent), 'up links to a folder that contains it'),
        (
            lambda split: shutil.copytree(split / 'class0', split / 'class1' / 'part'),
            'class1/part lies in the folder of another class, class1',
        ),
        (
            lambda split: [
                shutil.copytree(split / name, split / place / name) or shutil.rmtree(split / name)
                for name, place in (('class0', 'class1'), ('class2', 'class3'))
            ],
            'lies in the folder of another',
        ),
    ],
)
def test_a_training_folder_with_unclear_classes_is_refused(spoil, words, images, tmp_path, capsys):
    spoil(images / 'train')
    assert words in refuse_train(f'{images} {RUN}', tmp_path, capsys)


@pytest.mark.parametrize(
    'flags, words',
    [
        ('--val-split nosuch', ['--val-split nosuch', 'train and val']),
        ('--train-split nosuch', ['--train-split nosuch', 'train and val']),
        ("--train-split ''", ["--train-split ''", 'train and val']),
        ('--train-split test', ['--train-split test', 'train and val']),
        ('--dataset torch/image_folder --val-split nosuch', ['--val-split nosuch', 'train and val']),
    ],
)
def test_training_on_a_split_that_is_not_there(flags, words, run, tmp_path, capsys):
    said = refuse_train(f'{run[0]} {RUN} --check {flags}', tmp_path, capsys)
    assert all(word in said for word in words)


@pytest.mark.parametrize('split', ['nosuch', 'test', "''"])
def test_validating_a_split_that_is_not_there(split, run, capsys):
    said = refuse_validate(f'{run[0]} {COMMON} --split {split} --checkpoint {run[1]}/last.pth.tar', capsys)
    assert f'--split {split} is not in' in said and 'train and val' in said


def test_no_split_to_validate(run, images, tmp_path, capsys):
    shutil.rmtree(images / 'val')
    assert 'which has the split train' in refuse_validate(f'{images} {COMMON}', capsys)
    said = refuse_train(f'{images} {RUN}', tmp_path, capsys)
    assert 'which has the split train' in said and "--val-split ''" in said
    run_train(f"{images} {RUN} --val-split '' --epochs 1", tmp_path)


def test_a_folder_of_classes_is_judged_as_it_is_and_says_so(run, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    folder, checkpoint = run[0] / 'val', f'--checkpoint {run[1]}/last.pth.tar'
    flat = run_validate(f'{folder} {COMMON} {checkpoint}', capsys)
    assert flat == run_validate(f'{run[0]} {COMMON} {checkpoint}', capsys)
    assert caplog.text.count(f'{folder} has no split folders, so its class folders are used as they are') == 1
    # To train on what is judged by would be silent praise.
    said = refuse_train(f'{run[0]}/train {RUN}', tmp_path, capsys)
    assert 'has no folders train and validation' in said and "--val-split ''" in said
    run_train(f"{run[0]}/train {RUN} --val-split '' --epochs 1", tmp_path)


def test_one_split_for_both_is_said(run, caplog):
    data.check_class_folders(parse(run[0], '--val-split', 'train'))
    assert 'Training and validation read the same images' in warnings(caplog)


def test_parts_of_a_folder_are_not_silently_the_whole(run, tmp_path, capsys, caplog):
    run_validate(f'{run[0]} {COMMON} --split val[:10%] --checkpoint {run[1]}/last.pth.tar', capsys)
    assert 'The split val[:10%] of an image folder is all of' in warnings(caplog)


@pytest.mark.parametrize('written', ['one file', 'beside'])
def test_class_map_goes_first(written, run, tmp_path, capsys):
    """A list that turns the numbers round, in training and in judging what was trained without it."""
    (tmp_path / 'names.txt').write_text('\n'.join(reversed(NUMBERS)))
    folder, name = run[0], f'{tmp_path}/names.txt'
    if written == 'beside':  # in the folder of the training split, as timm looks for it
        folder = shutil.copytree(run[0], tmp_path / 'images')
        shutil.copy(tmp_path / 'names.txt', folder / 'train')
        name = 'names.txt'
    output = run_train(f'{folder} {RUN} --epochs 1 --class-map {name}', tmp_path)
    numbers = torch.load(output / 'last.pth.tar', weights_only=False)['args'].class_to_idx
    assert numbers == {label: CLASSES - 1 - index for label, index in NUMBERS.items()}
    run_validate(f'{folder} {COMMON} --checkpoint {output}/last.pth.tar --class-map {name}', capsys)  # the next step
    before = analyse(f'{run[0]} --checkpoint {run[1]}/last.pth.tar', capsys, tmp_path)
    turned = analyse(f'{run[0]} --checkpoint {run[1]}/last.pth.tar --class-map {tmp_path}/names.txt', capsys, tmp_path)
    assert turned != before


def test_class_map_that_chooses_classes_is_stocks(run, tmp_path, caplog):
    (tmp_path / 'names.txt').write_text('class3\nclass1\n')
    output = run_train(f'{run[0]} {RUN} --num-classes 2 --epochs 1 --class-map {tmp_path}/names.txt', tmp_path)
    assert torch.load(output / 'last.pth.tar', weights_only=False)['args'].class_to_idx == {'class3': 0, 'class1': 1}
    assert warnings(caplog).count('leaves out: these images are not used') == 2


def test_a_map_for_renamed_folders(images, tmp_path, capsys):
    (images / 'val' / 'class1').rename(images / 'val' / 'Class1')
    said = refuse_train(f'{images} {RUN}', tmp_path, capsys)
    assert 'the class Class1, which' in said and 'no images of the class class1' in said and '--class-map' in said
    (tmp_path / 'names.pkl').write_bytes(pickle.dumps({**NUMBERS, 'Class1': 1}))
    run_train(f'{images} {RUN} --epochs 1 --class-map {tmp_path}/names.pkl', tmp_path)


def forget_classes(run, path: Path, **changes) -> str:
    """A checkpoint as stock writes it."""
    checkpoint = torch.load(run[1] / 'last.pth.tar', weights_only=False)
    del checkpoint['args'].class_to_idx
    vars(checkpoint['args']).update(changes)
    torch.save(checkpoint, path)
    return str(path)


def test_a_checkpoint_without_names(run, images, tmp_path, capsys, caplog):
    """The training images beside tell which class is missing; without them nothing does, which is said."""
    stock = forget_classes(run, tmp_path / 'stock.pth.tar')
    before = analyse(f'{run[0]} --checkpoint {stock}', capsys, tmp_path)
    assert before == analyse(f'{run[0]} --checkpoint {run[1]}/last.pth.tar', capsys, tmp_path)
    shutil.rmtree(images / 'val' / 'class0')
    del before['class0']
    assert analyse(f'{images} --checkpoint {stock}', capsys, tmp_path) == before
    shutil.rmtree(images / 'train')
    run_validate(f'{images} {COMMON} --checkpoint {stock}', capsys)
    assert "It is unknown which 3 of the model's 4 classes are in" in warnings(caplog)


def test_damaged_names_are_refused(run, tmp_path, capsys):
    damaged = forget_classes(run, tmp_path / 'damaged.pth.tar', class_to_idx={'cat': 'dog'})
    assert 'damaged.pth.tar is damaged' in refuse_validate(f'{run[0]} {COMMON} --checkpoint {damaged}', capsys)


def test_initial_checkpoint_imposes_nothing_and_resume_goes_on_with_the_same(run, images, tmp_path, capsys):
    for split in 'train', 'val':
        (images / split / 'class1').rename(images / split / 'zebra')
    output = run_train(f'{images} {RUN} --epochs 1 --initial-checkpoint {run[1]}/last.pth.tar', tmp_path, 'new')
    numbers = torch.load(output / 'last.pth.tar', weights_only=False)['args'].class_to_idx
    assert numbers == {'class0': 0, 'class2': 1, 'class3': 2, 'zebra': 3}
    said = refuse_train(f'{images} {RUN} --epochs 5 --resume {run[1]}/last.pth.tar', tmp_path, capsys)
    assert 'class class1 had number 1, but here it has none' in said and '--initial-checkpoint' in said
    (tmp_path / 'names.txt').write_text('class0\nzebra\nclass2\nclass3\n')
    resume = f'{images} {RUN} --epochs 5 --resume'
    run_train(f'{resume} {run[1]}/last.pth.tar --class-map {tmp_path}/names.txt', tmp_path, 'mapped')
    run_train(f'{resume} {forget_classes(run, tmp_path / "stock.pth.tar")}', tmp_path, 'stock')


def test_chosen_classes_are_known_by_name(run, images, tmp_path, capsys):
    """A label of the chosen classes is a line of the file, in whatever order the folders come."""
    (tmp_path / 'labels.txt').write_text('2\n0\n')
    checkpoint = f'--checkpoint {run[1]}/last.pth.tar --valid-labels {tmp_path}/labels.txt'
    for name in 'class1', 'class3':
        shutil.rmtree(images / 'val' / name)
    assert set(analyse(f'{images} {checkpoint}', capsys, tmp_path)) == {'class0', 'class2'}
    found = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
    assert [row['name'] for row in found['classes']] == ['class2', 'class0'] and found['top1'] > 90
    said = refuse_validate(f'{run[0]} {COMMON} {checkpoint}', capsys)
    assert f'the classes class1 and class3, which --valid-labels {tmp_path}/labels.txt lacks' in said


@pytest.mark.parametrize('form', ['timm', 'safetensors'])
def test_exports_carry_the_names(form, run, images, tmp_path, capsys):
    path = tmp_path / ('out' if form == 'timm' else 'out.safetensors')
    export([form, str(run[1] / 'last.pth.tar'), '--output', str(path)])
    model = f'--model local-dir:{path}' if form == 'timm' else f'--model test_resnet --checkpoint {path}'
    if form == 'timm':
        assert json.loads((path / 'config.json').read_text())['label_names'] == list(NUMBERS)
    before = analyse(f'{run[0]} {model}', capsys, tmp_path)
    shutil.rmtree(images / 'val' / 'class0')
    shutil.rmtree(images / 'train')
    del before['class0']
    assert analyse(f'{images} {model}', capsys, tmp_path) == before
    (images / 'val' / 'class1').rename(images / 'val' / 'bat')
    assert 'the class bat, which' in refuse_validate(f'{images} {COMMON} {model}', capsys)
    # Words that are not the folders' impose nothing.
    (tmp_path / 'words.txt').write_text('a\nb\nc\nd\n')
    other = tmp_path / ('other' if form == 'timm' else 'other.safetensors')
    export([form, str(run[1] / 'last.pth.tar'), '--output', str(other), '--labels', str(tmp_path / 'words.txt')])
    assert analyse(f'{run[0]} {model.replace(str(path), str(other))}', capsys, tmp_path)['class1'] == before['class1']


def test_folders_of_a_part_of_imagenet_are_known(images, tmp_path, capsys, monkeypatch):
    """A pretrained model and some of its classes: as many labels as folders would be the first of the thousand."""
    import validate

    shutil.rmtree(images / 'train')
    for index, synset in enumerate(['n01440764', 'n02102040', 'n03888257', 'n03000684']):
        (images / 'val' / f'class{index}').rename(images / 'val' / synset)
    built = []
    monkeypatch.setattr(
        validate.validation, 'build_loader', lambda args, images, *rest: built.append(images) or _stop()
    )
    flags = f'{images} --model test_resnet --img-size 32 --device cpu -j 0'
    monkeypatch.setattr('timm.models._builder.load_pretrained', lambda *args, **kwargs: None)
    with pytest.raises(InterruptedError):
        run_validate(flags, capsys)
    labels = {Path(path).parent.name: index for path, index in built[0].reader.samples}
    assert labels == {'n01440764': 0, 'n02102040': 217, 'n03888257': 701, 'n03000684': 491}


def _stop():
    raise InterruptedError


def test_a_tar_file(run, images, tmp_path, capsys, caplog, monkeypatch):
    shutil.rmtree(images / 'val' / 'class0')
    for name, folder in {'whole': run[0] / 'val', 'part': images / 'val'}.items():
        with tarfile.open(tmp_path / f'{name}.tar', 'w') as file:
            file.add(folder, arcname='.')
    checkpoint = f'--checkpoint {run[1]}/last.pth.tar'
    before = analyse(f'{run[0]} {checkpoint}', capsys, tmp_path)
    assert analyse(f'{tmp_path}/whole.tar {checkpoint}', capsys, tmp_path) == before
    del before['class0']
    assert analyse(f'{tmp_path}/part.tar {checkpoint}', capsys, tmp_path) == before
    assert 'one file for both splits' in refuse_train(f'{tmp_path}/whole.tar {RUN}', tmp_path, capsys)
    output = run_train(f"{tmp_path}/whole.tar {RUN} --val-split '' --epochs 1", tmp_path)
    assert torch.load(output / 'last.pth.tar', weights_only=False)['args'].class_to_idx == NUMBERS
    (tmp_path / 'names.txt').write_text('class3\nclass1\n')
    monkeypatch.setattr('timm.models._builder.load_pretrained', lambda *args, **kwargs: None)
    chosen = f'{tmp_path}/whole.tar {COMMON} --num-classes 2 --class-map names.txt'
    run_validate(chosen, capsys)
    assert 'the classes class0 and class2, which --class-map names.txt leaves out' in warnings(caplog)
    (tmp_path / 'names.txt').write_text('class3\nKlass1\n')
    assert 'class0, class1 and class2, which --class-map names.txt lacks' in refuse_validate(chosen, capsys)


def test_who_numbers_classes_itself_is_compared(run, images, tmp_path, capsys, caplog):
    flags = f'{images} {RUN} --dataset torch/image_folder'
    (images / 'train' / 'names.txt').write_text('\n'.join(f'class{index}' for index in range(4)))
    run_train(f'{flags} --epochs 1 --class-map names.txt', tmp_path, 'same')
    assert '--class-map names.txt has no effect on --dataset torch/image_folder' in warnings(caplog)
    run_train(f'{flags} --check --class-map nowhere.txt', tmp_path)  # which the reader does not open
    assert '--class-map nowhere.txt has no effect on --dataset torch/image_folder' in warnings(caplog)
    shutil.rmtree(images / 'val' / 'class0')
    assert 'gives class class1 number 0, but the training split gives it 1' in refuse_train(flags, tmp_path, capsys)
    (images / 'val' / 'class1').rename(images / 'val' / 'class0')
    (images / 'val' / 'class2').rename(images / 'val' / 'Class1')
    assert 'the class Class1, which the training split lacks' in refuse_train(flags, tmp_path, capsys)


def test_an_embedded_set_records_its_names_too(tmp_path, capsys):
    digits = '--dataset keepaug/cluttered-digits --model test_resnet --num-classes 10 --device cpu -j 0 -b 8'
    output = run_train(f'{digits} --epochs 1 --warmup-epochs 0 --train-num-samples 16 --val-num-samples 8', tmp_path)
    assert torch.load(output / 'last.pth.tar', weights_only=False)['args'].class_to_idx == {
        str(digit): digit for digit in range(10)
    }
    run_validate(f'{digits} --num-samples 8 --checkpoint {output}/last.pth.tar --analysis-dir {tmp_path}/out', capsys)
    found = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
    assert [row['name'] for row in found['classes']] == list('0123456789')


@pytest.mark.parametrize('split', ['nosuch', 'trian', "''"])
def test_torchvisions_test_images_are_not_taken_for_another_split(split, tmp_path, capsys):
    (tmp_path / 'cifar-10-batches-py').mkdir()
    said = refuse_train(
        f'{tmp_path} {RUN} --num-classes 10 --check --dataset torch/cifar10 --train-split {split}', tmp_path, capsys
    )
    assert f'--train-split {split} is not in --dataset torch/cifar10, which has train and test' in said


def test_an_exactly_resumed_run_keeps_its_classes(images, tmp_path, capsys):
    flags = f'{images} {RUN} --exact-resume --epochs 3'
    output = run_train(f'{flags} --stop-epoch 1', tmp_path)
    shutil.rmtree(images / 'val' / 'class3')
    run_train(f'{flags} --resume {output}/last.pth.tar', tmp_path)
    for split in 'train', 'val':
        (images / split / 'class0').rename(images / split / 'zebra')
    said = refuse_train(f'{flags} --resume {output}/last.pth.tar', tmp_path, capsys)
    assert 'class class0 had number 0, but here it has none' in said
