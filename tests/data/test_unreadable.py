"""Broken images, and such as would fill the memory, are named and left out like all that cannot be read."""

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from timm.data import create_dataset

from keepaug.data.unreadable import NamedFailures
from tests.scripts import TINY, refuse_train, run_train, write_images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png(width: int, height: int, body: bytes) -> bytes:
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
        + body
        + chunk(b'IEND', b'')
    )


BROKEN = {
    'empty': b'',
    'no image': b'something else',
    'bomb': png(30_000, 30_000, chunk(b'IDAT', zlib.compress(b''))),
    'bad chunk': png(8, 8, struct.pack('>I', 4) + b'\0\0\0\0' + b'abcd' + bytes(4)),
    'too much text': png(8, 8, chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(2**21)))),
    'truncated': png(8, 8, chunk(b'IDAT', zlib.compress(bytes(200))))[:45],
}


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_images(tmp_path / 'images', per_class=4)


def read(folder: Path, index: int = 0) -> tuple:
    return NamedFailures(create_dataset('', root=str(folder), split='train'))[index]


@pytest.mark.parametrize('kind', BROKEN)
def test_the_next_one_takes_its_place(kind, folder, caplog):
    path = folder / 'train' / 'class0' / '00.png'
    path.write_bytes(BROKEN[kind])
    image, target = read(folder)
    assert image.tobytes() == Image.open(path.with_name('01.png')).tobytes() and target == 0
    assert f'{path} cannot be read and is left out: ' in caplog.text


def test_a_run_goes_on_without_it(folder, tmp_path):
    for number, kind in enumerate(('bomb', 'bad chunk')):
        (folder / 'train' / f'class{number}' / '01.png').write_bytes(BROKEN[kind])
    run_train(f'{folder} {TINY} --epochs 1 -j 1', tmp_path)


def test_nothing_but_broken_ones_is_one_sentence(folder, tmp_path, capsys):
    for path in folder.glob('train/*/*.png'):
        path.write_bytes(BROKEN['bomb'])
    said = refuse_train(f'{folder} {TINY} --epochs 1 -j 1', tmp_path, capsys)
    assert f'{folder}/train/class' in said and 'cannot be read: mend or remove them.' in said


def test_a_defect_of_a_transform_is_no_broken_image(folder):
    def fail(image):
        raise SyntaxError('a defect')

    dataset = NamedFailures(create_dataset('', root=str(folder), split='train', transform=fail))
    with pytest.raises(SyntaxError, match='a defect'):
        dataset[0]


@pytest.mark.parametrize('settings', [{}, dict(target_transform=lambda target: -target), dict(load_bytes=True)])
def test_whole_images_are_what_timm_gives(settings, folder):
    dataset = create_dataset('', root=str(folder), split='train', **settings)
    for index in range(len(dataset)):
        (image, target), (wanted, label) = NamedFailures(dataset)[index], dataset[index]
        assert image == wanted and target == label
