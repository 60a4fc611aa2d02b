"""Boxes from the usual files, matched to images, and where the model sees them."""

import pytest
import torch
from PIL import Image
from timm.data import create_dataset, create_transform

from keepaug.data.unreadable import NamedFailures
from keepaug.datasets import create_embedded_dataset
from keepaug.evaluation.boxes import TrueBoxes, match, read_boxes

XML = """<annotation><filename>{name}</filename>{boxes}</annotation>"""
OBJECT = '<object><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def folder(tmp_path):
    """Two classes of images of 40 x 20 pixels."""
    for name in ('a/1.png', 'a/2.png', 'b/3.png'):
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 20)).save(path)
    return NamedFailures(create_dataset('', root=str(tmp_path / 'images')))


# Reading.


@pytest.mark.parametrize('head', ['', 'image,x0,y0,x1,y1\n', 'image_id, x0, y0, x1, y1\n'])
def test_csv(write, head):
    path = write('boxes.csv', head + 'a/1.png,1,2,3,4\n\n"b, c.png",0,0,5.5,6\na/1.png,2,2,9,9\n')
    assert read_boxes(path) == {'a/1.png': [(1, 2, 3, 4), (2, 2, 9, 9)], 'b, c.png': [(0, 0, 5.5, 6)]}


def test_tiny_imagenet(write):
    path = write('val_annotations.txt', 'val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\t0\t0\t63\t63\n')
    assert read_boxes(path) == {'val_0.JPEG': [(0, 32, 45, 63)], 'val_1.JPEG': [(0, 0, 64, 64)]}


def test_cub(write):
    write('images.txt', '1 001.Albatross/one.jpg\n2 001.Albatross/two.jpg\n')
    path = write('bounding_boxes.txt', '1 60.0 27.0 325.0 304.0\n2 139.0 30.0 153.0 264.0\n')
    assert read_boxes(path) == {
        '001.Albatross/one.jpg': [(60, 27, 385, 331)],
        '001.Albatross/two.jpg': [(139, 30, 292, 294)],
    }


def test_xml(write, tmp_path):
    write('xml/val/one.v2.xml', XML.format(name='one', boxes=OBJECT.format(0, 0, 499, 374) + OBJECT.format(1, 2, 3, 4)))
    write('xml/two.xml', XML.format(name='two', boxes=''))
    assert read_boxes(str(tmp_path / 'xml')) == {'val/one.v2': [(0, 0, 500, 375), (1, 2, 4, 5)]}


@pytest.mark.parametrize(
    'name, text, said',
    [
        ('boxes.csv', 'a.png,1,2,3,4\nb.png,1,2,x,4\n', "line 2: '1 2 x 4' must be four numbers"),
        ('boxes.csv', 'a.png,1,2,3,4\nb.png,1,2,3\n', "line 2: '1 2 3' must be four numbers"),
        ('boxes.csv', 'a.png,1,2,3,4\n\nb.png,5,2,5,4\n', r'line 3: \(5.0, 2.0, 5.0, 4.0\) is not a box'),
        ('boxes.csv', 'a.png,0,0,nan,4\n', 'line 1: .* is not a box'),
        ('boxes.csv', 'image,x0,y0,x1,y1\n', 'holds no boxes'),
        ('boxes.csv', '', 'is empty'),
        ('boxes.txt', 'a.png 1 2 3\n', "line 1: 'a.png 1 2 3' is neither"),
        ('boxes.txt', 'a.png n0 1 2 3 4\nb.png n0 1 2 3\n', "line 2: '1 2 3' must be four numbers"),
        ('boxes.txt', 'a.png n0 1 2 3 4\nb.png\n', "line 2: '' must be four numbers"),
        ('alone/bounding_boxes.txt', '1 2 3 4 5\n', "needs CUB's .*images.txt"),
    ],
)
def test_what_is_no_box_is_told_by_its_line(write, name, text, said):
    with pytest.raises(ValueError, match=f'{said}.*[;:] (mend|name|put)'):
        read_boxes(write(name, text))


def test_cub_image_without_a_name(write):
    write('images.txt', '1 one.jpg\n')
    with pytest.raises(ValueError, match='line 2: .* no image 7'):
        read_boxes(write('bounding_boxes.txt', '1 0 0 5 5\n7 0 0 5 5\n'))


def test_broken_xml(write, tmp_path):
    write('xml/one.xml', '<annotation><bndbox>')
    with pytest.raises(ValueError, match='one.xml cannot be read as XML .*; mend or remove it'):
        read_boxes(str(tmp_path / 'xml'))


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ValueError, match='cannot be read .No such file'):
        read_boxes(str(tmp_path / 'nowhere.csv'))
    (tmp_path / 'picture').write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match='cannot be read .not a text file'):
        read_boxes(str(tmp_path / 'picture'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='holds no boxes'):
        read_boxes(str(tmp_path / 'empty'))


# Matching.

BOX = [(0.0, 0.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    'name, files, found',
    [
        ('1.png', ['a/1.png', 'a/2.png'], 0),
        ('1', ['a/1.png', 'a/2.png'], 0),
        ('a/1.png', ['a/1.png', 'b/1.png'], 0),
        ('images/val/b/1.png', ['a/1.png', 'b/1.png'], 1),
        ('b/1.png', ['train/a/1.png', 'train/b/1.png'], 1),
        ('val/1.png', ['a/1.png', 'a/2.png'], 0),  # other folders, but the only one of that name
        ('val/1.png', ['a/1.png', 'b/1.png'], None),
        ('1.jpg', ['a/1.png'], None),
        ('one.v2', ['a/one.v2.png', 'a/one.png'], 0),
    ],
)
def test_names_and_images(name, files, found):
    matched, missing = match({name: BOX}, files, 'boxes.csv')
    assert (matched, missing) == (({found: BOX}, []) if found is not None else ({}, [name]))


def test_xml_that_mirrors_the_class_folders(write, tmp_path):
    """Names repeat from class to class."""
    for label, edge in (('airplane', 5), ('bird', 9)):
        write(f'xml/{label}/0082.xml', XML.format(name='0082', boxes=OBJECT.format(0, 0, edge, edge)))
    read = read_boxes(str(tmp_path / 'xml'))
    matched, missing = match(read, ['airplane/0082.jpg', 'bird/0082.jpg'], 'xml')
    assert (matched, missing) == ({0: [(0, 0, 6, 6)], 1: [(0, 0, 10, 10)]}, [])
    # ImageNet keeps the XML of its validation images in one folder, which is no class.
    matched, _ = match({'val/1': BOX}, ['n01/1.JPEG', 'n02/2.JPEG'], 'xml')
    assert list(matched) == [0]


def test_a_path_that_fits_wins_over_a_name_that_does():
    matched, missing = match({'x/1.png': BOX, 'a/1.png': BOX}, ['a/1.png'], 'boxes.csv')
    assert list(matched) == [0] and missing == ['x/1.png']


@pytest.mark.parametrize(
    'names, files, said',
    [
        (['1.png'], ['a/1.png', 'b/1.png'], '1.png may be a/1.png or b/1.png'),
        (['1'], ['a/1.png', 'a/1.jpg'], '1 may be a/1.png or a/1.jpg'),
        (['1', '1.png'], ['a/1.png'], '1 and 1.png may both be a/1.png'),
        (['x/1.png', 'y/1.png'], ['a/1.png'], 'x/1.png and y/1.png may both be a/1.png'),
    ],
)
def test_collisions_are_refused(names, files, said):
    with pytest.raises(ValueError, match=said):
        match(dict.fromkeys(names, BOX), files, 'boxes.csv')


# What the model sees.


def test_boxes_are_resized_cropped_and_cut(folder, write):
    # 40 x 20 becomes 20 x 10 and loses 5 pixels on the left and on the right.
    path = write('boxes.csv', '1.png,16,4,24,12\n1.png,0,0,14,20\n1.png,0,0,10,20\n3.png,0,0,9,20\n')
    transform = create_transform((3, 10, 10), crop_pct=1.0)
    boxes = TrueBoxes(folder, transform, path)
    assert boxes(0).tolist() == [[3, 2, 7, 6], [0, 0, 2, 10]]
    assert boxes(1).shape == (0, 4)  # none in the file
    assert boxes(2).shape == (0, 4)  # not in what is seen
    assert boxes.numbers == [0, 2]


def test_edges_have_their_own_scale(folder, write):
    squash = create_transform((3, 10, 10), crop_pct=1.0, crop_mode='squash')
    boxes = TrueBoxes(folder, squash, write('boxes.csv', '1.png,4,4,36,8\n'))
    assert boxes(0).tolist() == [[1, 2, 9, 4]]


def test_boxes_of_other_images_are_refused(folder, write):
    with pytest.raises(ValueError, match='boxes for 2 images, x.png first, .* a/1.png'):
        TrueBoxes(folder, None, write('boxes.csv', 'x.png,1,2,3,4\ny.png,1,2,3,4\n'))
    boxes = TrueBoxes(folder, None, write('boxes.csv', '1.png,0,0,41,20\n2.png,0,0,20,40\n3.png,0,0,60,20\n'))
    assert boxes(0).tolist() == [[0, 0, 40, 20]]  # counted from 1
    for index, name in ((1, 'a/2.png'), (2, 'b/3.png')):
        with pytest.raises(ValueError, match=f'lies outside {name}, .* 40 x 20 pixels'):
            boxes(index)


def test_sets_without_names_or_boxes_are_refused(folder):
    with pytest.raises(ValueError, match='needs boxes'):
        TrueBoxes(folder, None)
    with pytest.raises(ValueError, match='by file name'):
        TrueBoxes([], None, 'boxes.csv')


def test_a_set_that_knows_its_boxes():
    digits = create_embedded_dataset('keepaug/cluttered-digits', 'validation', 3)
    assert torch.equal(TrueBoxes(digits, None)(2)[0], digits.box(2).float())
    twice = TrueBoxes(digits, create_transform((3, 80, 80), crop_pct=1.0))
    assert torch.equal(twice(1)[0], 2 * digits.box(1).float())


def test_a_field_that_no_reader_takes(write):
    path = write('boxes.csv', 'image,x0,y0,x1,y1\na.png,1,2,3,4\n' + 'x' * 200_000 + ',1,2,3,4\n')
    with pytest.raises(ValueError, match='--gt-boxes .*boxes.csv, line 3: field larger than field limit'):
        read_boxes(str(path))
