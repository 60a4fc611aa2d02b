"""What an image folder holds: by listings alone, each kind of disorder told from a class."""

import os
import random
from pathlib import Path

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets

from keepaug.data import folders
from keepaug.data.classes import number_classes
from keepaug.data.folders import find_split, list_splits, name_some, split_folder, survey_classes


def make_tree(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize('whole', [False, True])
def test_reference_timm_finds_the_same_classes_in_a_well_formed_set(whole, tmp_path):
    rng = random.Random(0)
    for number in range(40):
        depth = rng.choice(['', 'animals/', 'things/small/'])
        make_tree(tmp_path, *(f'{depth}c{number}/{image}.{rng.choice(["png", "JPG", "jpeg"])}' for image in range(3)))
    make_tree(tmp_path, 'README.md', 'c7/notes.txt', 'empty/notes.txt', '.git/config')
    survey = survey_classes(str(tmp_path), whole=whole)
    assert list(number_classes(survey.classes).items()) == list(find_images_and_targets(str(tmp_path))[1].items())
    assert (survey.inner, survey.hidden, survey.loose, survey.loops) == ([], [], [], [])


def test_each_kind_of_disorder(tmp_path):
    make_tree(
        tmp_path,
        'cat/a.png',
        'cat/.ipynb_checkpoints/a-checkpoint.png',
        '.trash/cat/a.png',
        'dog/old/b.png',
        'dog/a.png',
        'b.jpg',
        'a.jpg',
        'part/cat/c.png',
    )
    (tmp_path / 'dog' / 'up').symlink_to(tmp_path)
    whole, brief = survey_classes(str(tmp_path), whole=True), survey_classes(str(tmp_path))
    assert whole.classes == {'cat': ['cat', 'part/cat'], 'dog': ['dog'], 'old': ['dog/old']}
    assert whole.inner == ['dog/old'] and whole.loops == ['dog/up'] and whole.loose == brief.loose == ['a.jpg', 'b.jpg']
    assert sorted(whole.hidden) == ['.trash/cat', 'cat/.ipynb_checkpoints'] and brief.hidden == ['.trash/cat']
    assert brief.classes == {'cat': ['cat', 'part/cat'], 'dog': ['dog']}


@pytest.mark.parametrize(
    'link, target',
    [('cat/up', '.'), ('up', '..'), ('cat/self', 'cat'), ('.hidden/up', '.'), ('a/b', 'b'), ('cat/far/up', '../..')],
)
def test_circles_end(link, target, tmp_path):
    """Two folders that link to each other go in circles too, though neither link leads up."""
    root = make_tree(tmp_path / 'data' / 'train', 'cat/a.png', 'b/b.png')
    for name, goal in {link: target, 'b/a': 'a'}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(root / goal)
    assert survey_classes(str(root), whole=True).loops


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    make_tree(tmp_path, 'store/cat/a.png', 'store/dog/a.png')
    (tmp_path / 'train').mkdir()
    for name in 'cat', 'dog':
        (tmp_path / 'train' / name).symlink_to(tmp_path / 'store' / name)
    assert survey_classes(str(tmp_path / 'train'), whole=True) == folders.Survey(
        str(tmp_path / 'train'), classes={'cat': ['cat'], 'dog': ['dog']}
    )


def test_a_brief_look_stops_at_the_first_image(tmp_path, monkeypatch):
    make_tree(tmp_path, *(f'c{number}/{image}.png' for number in range(3) for image in range(50)))
    looked = []
    monkeypatch.setattr(folders, '_is_image', lambda name, extensions: looked.append(name) or name.endswith('.png'))
    assert len(survey_classes(str(tmp_path)).classes) == len(looked) == 3


def test_other_endings(tmp_path):
    make_tree(tmp_path, 'cat/a.tif', 'dog/a.png')
    assert list(survey_classes(str(tmp_path), extensions=['.tif']).classes) == ['cat']


@pytest.mark.skipif(os.geteuid() == 0, reason='root may list anything')
def test_a_folder_that_cannot_be_listed_is_named(tmp_path):
    make_tree(tmp_path, 'cat/a.png')
    (tmp_path / 'cat').chmod(0)
    with pytest.raises(ValueError, match='cat cannot be listed'):
        survey_classes(str(tmp_path))
    (tmp_path / 'cat').chmod(0o755)


@pytest.mark.parametrize(
    'there, split, found',
    [
        (['train', 'val'], 'validation', 'val'),
        (['training', 'eval'], 'train', 'training'),
        (['val', 'validation'], 'validation', 'validation'),
        (['fold1'], 'fold1', 'fold1'),
        (['train'], 'train[:10%]', 'train'),
        (['train', 'val'], 'nosuch', None),
        (['train', 'val'], 'test', None),
        (['train', 'val'], '', None),
    ],
)
def test_splits_are_found_where_timm_finds_them(there, split, found, tmp_path):
    from timm.data.dataset_factory import _search_split

    for name in there:
        make_tree(tmp_path, f'{name}/cat/a.png')
    assert find_split(str(tmp_path), split) == (found and str(tmp_path / found))
    # Where timm finds none it takes what it is given.
    assert os.path.normpath(_search_split(str(tmp_path), split)) == str(tmp_path / (found or ''))


def test_a_folder_of_classes_is_taken_as_it_is_and_no_other(tmp_path):
    flat = make_tree(tmp_path / 'flat', 'car/a.png', 'train/a.png', '.cache/cat/a.png')  # the railway kind of train
    assert list_splits(str(flat)) == []
    for split in 'validation', 'test', '':
        assert split_folder(str(flat), split, '--split') == str(flat)
    with pytest.raises(ValueError, match='--split nosuch is not in .*flat, which has no splits: leave it out'):
        split_folder(str(flat), 'nosuch', '--split')
    split = make_tree(tmp_path / 'split', 'train/cat/a.png', 'train/stray.png', 'fold/cat/a.png', 'notes/a.txt')
    for name in 'validation', 'test', 'nosuch', '':
        with pytest.raises(ValueError, match=r'is not in .*split, which has the splits fold and train: name one'):
            split_folder(str(split), name, '--split')


def test_some_names():
    assert name_some(['a']) == 'a' and name_some('ab') == 'a and b' and name_some('abc') == 'a, b and c'
    assert name_some('abcdefgh') == 'a, b, c, d, e and 3 more' and name_some([]) == ''
