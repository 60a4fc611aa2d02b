"""Images deeper than 8 bits: scaled, or refused by file and mode; those of 8 bits are Pillow's to a bit."""

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import IterableImageDataset
from torchvision.datasets import ImageFolder

import train
from keepaug.data.depth import DEEP, ConvertingReader, convert, convert_deep
from tests.scripts import TINY, refuse_train, run_train

RAMP = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)


@pytest.mark.parametrize('mode', ['L', 'RGB'])
@pytest.mark.parametrize('file', ['grey.png', 'grey.tif'])
def test_sixteen_bits_are_scaled(file, mode, tmp_path):
    Image.fromarray(RAMP).save(tmp_path / file)
    image = convert(Image.open(tmp_path / file), mode)
    grey = np.asarray(image) if mode == 'L' else np.asarray(image)[..., 1]
    assert image.mode == mode and np.array_equal(grey, np.round(RAMP / 257))
    assert grey.min() == 0 and grey.max() == 255, 'black is black and white is white'


@pytest.mark.parametrize('order', ['<u2', '>u2'])
def test_either_order_of_bytes(order):
    image = Image.frombytes('I;16B' if order == '>u2' else 'I;16', (32, 32), RAMP.astype(order).tobytes())
    assert np.array_equal(np.asarray(convert(image, 'L')), np.round(RAMP / 257))


@pytest.mark.parametrize('stored', ['1', 'L', 'P', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr'])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_eight_bits_are_pillows(stored, mode):
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(colours).convert(stored)
    assert convert(image, mode).tobytes() == image.convert(mode).tobytes()


def test_who_asks_for_depth_gets_it():
    image = Image.fromarray(RAMP)
    assert all(convert(image, mode).mode == mode for mode in ('I', 'F')) and image.mode in DEEP


@pytest.mark.parametrize('dtype, mode', [(np.float32, 'F'), (np.int32, 'I')])
def test_an_unknown_range_is_refused_by_file_and_mode(dtype, mode, images, tmp_path, caplog, capsys):
    for path in images.glob('train/*/*.png'):
        Image.fromarray(np.full((32, 32), 300, dtype)).save(path, 'TIFF')
    said = refuse_train(f'{images} {TINY} --epochs 1', tmp_path, capsys)
    assert f'{images}/train/class' in said
    assert f'its pixels are of mode {mode}, whose range is not known' in caplog.text


@pytest.fixture
def images(tmp_path):
    """Greys of 16 bits whose upper halves tell the class, which clipping would make white."""
    folder = tmp_path / 'images'
    for split in ('train', 'val'):
        for label in range(3):
            place = folder / split / f'class{label}'
            place.mkdir(parents=True)
            for number in range(8):
                Image.fromarray((RAMP // 4 + 16384 * label).astype(np.uint16)).save(place / f'{number}.png')
    return folder


def test_training_and_validation_see_them(images, tmp_path, monkeypatch):
    seen = {True: [], False: []}

    def create_model(*args, **kwargs):
        model = timm.create_model(*args, **kwargs)
        model.register_forward_pre_hook(lambda model, x: seen[model.training].extend(x[0].mean((1, 2, 3)).tolist()))
        return model

    monkeypatch.setattr(train, 'create_model', create_model)
    run_train(f'{images} {TINY} --epochs 1 --in-chans 1 --no-aug --mean 0 --std 1', tmp_path)
    for means in seen.values():
        assert sorted(means) == pytest.approx(sorted([32 / 255, 96 / 255, 160 / 255] * 8), abs=0.01)


def test_torchvisions_folders(images):
    dataset = convert_deep(ImageFolder(str(images / 'train')), 'torch/image_folder', 'RGB')
    assert np.asarray(dataset[23][0]).mean() == pytest.approx(160, abs=1)


def test_streams():
    class Reader:
        epoch = 0

        def __iter__(self):
            yield Image.fromarray(RAMP), 1

        def __len__(self):
            return 1

        def set_epoch(self, epoch):
            self.epoch = epoch

    dataset = convert_deep(IterableImageDataset('', reader=Reader()), 'wds/any', 'L')
    assert isinstance(dataset.reader, ConvertingReader) and len(dataset) == 1
    dataset.set_epoch(3)
    ((image, target),) = dataset
    assert image.mode == 'L' and target == 1 and dataset.reader.epoch == 3
