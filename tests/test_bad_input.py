"""What a person can get wrong ends in one sentence and exit status 2, before training where it can be known."""

import os

import pytest
import torch

from tests.scripts import TINY, refuse_train, refuse_validate, run_train, write_images


@pytest.mark.parametrize(
    'flags, words',
    [
        ('{data} {TINY} --model resnet5O', ['--model resnet5O', 'resnet50']),
        ('/no/such/folder {TINY}', ['/no/such/folder', '--data-dir']),
        ('{TINY}', ['No data', '--data-dir']),
        ('{empty} {TINY}', ['{empty}', 'empty']),
        ('{data} {TINY} --num-classes 2', ['3 classes', '--num-classes 3']),
        ('{data} {TINY} --num-classes 2 --check', ['3 classes', '--num-classes 3']),
        ('{data} {TINY} --aa randd-m9 --check', ['--aa randd-m9']),
        ('{data} --model test_resnet --num-classes 3 --device cpu -j 0 -b 8 --cutout 200', ['--cutout 200', '160']),
        ('{data} {TINY} --keep-cut --keep-size 33', ['--keep-size 33', 'images of 32']),
        ('{data} {TINY} --keep-cut --keep-tau 1.5', ['--keep-tau 1.5', 'between 0 and 1']),
        ('{data} {TINY} --keep-cut --aug-splits 2', ['--keep-cut', '--aug-splits 2']),
        ('{data} {TINY} --keep-cut --naflex-loader', ['--keep-cut', '--naflex-loader']),
        ('{data} {TINY} --eval-metric top2', ['--eval-metric top2', 'top1']),
        ('{data} {TINY} -b 64', ['--batch-size 64', 'fewer images']),
        ('{data} {TINY} --opt-kwargs nonsense=3', ['--opt sgd', 'nonsense']),
        ('{data} {TINY} --model-kwargs nonsense=3', ['--model test_resnet', 'nonsense']),
        ('{data} {TINY} --gp nix', ['--model test_resnet', '--gp nix', 'avg']),
        ('{data} {TINY} --img-size 8 --keep-cut', ['--keep-size', 'given', '8 x 8']),
        ('{TINY} --device cuda', ['No data', '--data-dir']),
        ('{data} {TINY} --pretrained', ['--pretrained-path', 'drop --pretrained']),
        ('{data} {TINY} --aug-repeats 2', ['training loader', 'Repeat']),
        ('{TINY} --dataset keepaug/no-such-set', ['keepaug/cluttered-digits']),
        (
            '{TINY} --check --dataset keepaug/clutered-digits',
            ['--dataset keepaug/clutered-digits', 'keepaug/cluttered-digits'],
        ),
        ('{TINY} --check --dataset keepaug/cluttered-digits --num-classes 5', ['10 classes', '--num-classes 10']),
        ('/no/birds {TINY} --check --dataset keepaug/cub', ['/no/birds', '--dataset keepaug/cub', 'not exist']),
        ('/no/cifar {TINY} --check --dataset torch/cifar10', ['/no/cifar', '--dataset torch/cifar10', '--data-dir']),
        ('{empty} {TINY} --check --dataset torch/cifar100 --num-classes 10', ['100 classes', '--num-classes 100']),
        ('{data} {TINY} --dataset torch/cifar1 --check', ['--dataset torch/cifar1', 'torch/cifar10']),
        ('{empty} {TINY} --dataset torch/cifar10 --num-classes 10', ['{empty}', 'empty', '--dataset-download']),
        ('{data} {TINY} --dataset torch/cifar10 --num-classes 10', ['{data}', '--dataset-download']),
        ('{data} {TINY} --dataset torch/x/cifar10 --num-classes 5', ['torch/x/cifar10 has 10 classes']),
        ('/no/where {TINY} --dataset torch/imagenet', ['/no/where', '--dataset torch/imagenet', '--data-dir.']),
        ('/no/where {TINY} --dataset torch/imagenet --dataset-download', ['/no/where', '--data-dir.']),
        ('{data} {TINY} --input-img-mode L --check', ['--input-img-mode L has 1 channel', '--in-chans 1']),
        ('{data} {TINY} --input-img-mode L --no-prefetcher', ['--input-img-mode L has 1 channel', '--in-chans 1']),
        (
            '{TINY} --dataset keepaug/cluttered-digits --num-classes 10 --class-map nix.txt',
            ['--class-map nix.txt'],
        ),
        (
            '{TINY} --dataset keepaug/cluttered-digits --num-classes 10 --val-split nix --check',
            ['--val-split nix', 'validation'],
        ),
        ('{empty} {TINY} --dataset keepaug/mini-imagenet --train-split test --check', ['--train-split test', 'train']),
        ('{data} {TINY} --mean 1 2 --check', ['--mean 1.0 2.0', '3 channels']),
        (
            '{data} --model efficientformer_l1 --num-classes 3 -b 8 --epochs 1 --device cpu --keep-cut '
            '--keep-saliency low',
            ['--keep-saliency low', '112', 'full'],
        ),
    ],
)
def test_training_refuses(flags, words, data, tmp_path, capsys):
    empty = tmp_path / 'empty'
    empty.mkdir()
    names = dict(data=data, TINY=TINY, empty=empty)
    said = refuse_train(flags.format(**names), tmp_path, capsys)
    for word in ' '.join(words).format(**names).split():
        assert word in said
    assert not (tmp_path / 'run').exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without CUDA')
@pytest.mark.parametrize(
    'refuse',
    [
        lambda flags, path, capsys: refuse_train(flags, path, capsys),
        lambda flags, path, capsys: refuse_validate(flags, capsys),
    ],
)
def test_missing_cuda(refuse, data, tmp_path, capsys):
    said = refuse(f'{data} --device cuda', tmp_path, capsys)
    assert '--device cuda' in said and '--device cpu' in said


@pytest.mark.parametrize('workers', [0, 1])
def test_unreadable_images_are_named(workers, tmp_path, capsys):
    data = write_images(tmp_path / 'images', per_class=11)
    for path in (data / 'train' / 'class1').iterdir():  # one more than timm skips
        path.write_bytes(b'not an image')
    said = refuse_train(f'{data} {TINY} -j {workers}', tmp_path, capsys)
    assert str(data / 'train' / 'class1') in said and 'cannot be read' in said


def test_one_unreadable_image_is_skipped(tmp_path):
    data = write_images(tmp_path / 'images')
    (data / 'train' / 'class1' / '00.png').write_bytes(b'not an image')
    run_train(f'{data} {TINY} --epochs 1', tmp_path)


def test_output_that_cannot_be_written(data, tmp_path, capsys):
    (tmp_path / 'file').write_text('in the way')
    said = refuse_train(f'{data} {TINY}', tmp_path / 'file', capsys)
    assert str(tmp_path / 'file') in said and '--output' in said


def test_fewer_labels_than_classes_is_a_warning(data, tmp_path, caplog):
    run_train(f'{data} {TINY} --num-classes 7 --epochs 1', tmp_path)
    assert any('3 classes' in record.message and record.levelname == 'WARNING' for record in caplog.records)


@pytest.mark.parametrize(
    'flags, words',
    [
        ('/no/such/folder --model test_resnet --device cpu', ['/no/such/folder']),
        ('{data} --model test_resnet --num-classes 3 --device cpu --checkpoint /no/such/file', ['/no/such/file']),
        (
            '{data} {WEIGHTS} --model test_vit',
            ['test_vit', 'the file lacks cls_token', ' more; the model has no'],
        ),
        ('{data} {WEIGHTS} --naflex-loader', ['--naflex-loader', 'test_resnet']),
        ('{data} {WEIGHTS} --crop-border-pixels 16 -j 0', ['--crop-border-pixels 16', '32 x 32']),
        ('{data} {WEIGHTS} --torchcompile nix', ['--torchcompile nix', 'inductor']),
        ('{data} {WEIGHTS} --input-img-mode RGBA', ['--input-img-mode RGBA', '--in-chans 4']),
        ('{data} {WEIGHTS} --input-img-mode L', ['--input-img-mode L has 1 channel', '--in-chans 1']),
        ('{data} {WEIGHTS} --input-img-mode nix', ['--input-img-mode nix', 'RGB']),
        ('{data} {WEIGHTS} --real-labels nix', ['--real-labels nix']),
        ('{data} {WEIGHTS} --valid-labels nix', ['--valid-labels nix']),
        ('{data} {WEIGHTS} --results-file {data}', ['--results-file {data}', 'folder']),
        ('{data} {WEIGHTS} --class-map nix', ['--class-map nix']),
        (
            '{data} --model test_resnet --num-classes 2 --device cpu --checkpoint {checkpoint}',
            ['{checkpoint}', 'test_resnet'],
        ),
    ],
)
def test_validation_refuses(flags, words, data, tmp_path, capsys):
    import timm

    checkpoint = tmp_path / 'three.pth.tar'
    torch.save({'state_dict': timm.create_model('test_resnet', num_classes=3).state_dict()}, checkpoint)
    weights = f'--model test_resnet --num-classes 3 --device cpu --img-size 32 --checkpoint {checkpoint}'
    names = dict(data=data, checkpoint=checkpoint, WEIGHTS=weights)
    said = refuse_validate(flags.format(**names), capsys)
    for word in words:
        assert word.format(**names) in said


def test_a_damaged_checkpoint_is_told_before_data_are_read(data, tmp_path, capsys):
    from unittest import mock

    (tmp_path / 'broken.pth.tar').write_text('no checkpoint')
    with mock.patch('train.data.build_train_dataset', side_effect=AssertionError('data were read')):
        said = refuse_train(f'{data} {TINY} --resume {tmp_path}/broken.pth.tar', tmp_path, capsys)
    assert f'--resume {tmp_path}/broken.pth.tar' in said


def test_a_run_that_begins_behind_its_end_names_both_flags(data, tmp_path, caplog):
    run_train(f'{data} {TINY} --epochs 1 --start-epoch 5', tmp_path)
    told = next(record.message for record in caplog.records if 'Nothing to do' in record.message)
    assert '--start-epoch 5' in told and 'ends after 1' in told and '--epochs' in told


def test_no_data_names_those_of_the_checkpoint_s_run(tmp_path, capsys):
    from argparse import Namespace

    file, args = tmp_path / 'run.pth.tar', Namespace(dataset='keepaug/cluttered-digits', data_dir=None, data=None)
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'args': args}, file)
    said = refuse_validate(f'--checkpoint {file} --device cpu', capsys)
    assert '--dataset keepaug/cluttered-digits' in said and str(file) in said


def test_many_models_without_a_network_are_refused_at_once(data, capsys):
    from unittest import mock

    with (
        mock.patch('keepaug.validation.runs.is_hub_reachable', return_value=False),
        mock.patch('keepaug.validation.runs.are_cached', return_value=False),
    ):
        said = refuse_validate(f"{data} --model 'resn*' --device cpu", capsys)
    assert '--model resn*' in said and '--checkpoint' in said


def test_validation_asks_for_its_own_split_alone(tmp_path, capsys):
    said = refuse_validate(f'{tmp_path}/none --model test_resnet --device cpu', capsys)
    assert 'with val in it' in said


def test_check_reads_no_image_and_writes_nothing(data, tmp_path):
    from unittest import mock

    import train

    with mock.patch('sys.argv', ['train.py', str(data), *TINY.split(), '--check', '--output', str(tmp_path / 'out')]):
        assert train.main() is None
    assert not os.path.exists(tmp_path / 'out')
