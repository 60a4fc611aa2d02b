"""One list of classes for all splits: what a split may lack, what it may not have besides, and who makes the list."""

import itertools
import logging
import pickle
import random

import pytest

from keepaug.data.classes import (
    ClassList,
    check_names,
    check_numbers,
    check_split,
    dataset_classes,
    list_of_map,
    name_classes,
    number_classes,
    open_split,
)
from keepaug.data.folders import survey_classes
from keepaug.datasets import create_embedded_dataset
from tests.data.test_folders import make_tree

PETS = ClassList({'cat': 0, 'dog': 1, 'emu': 2}, 'the list')


def test_numbers_do_not_depend_on_the_order_of_a_listing():
    """timm leaves names that differ in case or leading zeros alone to the order of a set, another in each process."""
    names = ['c10', 'c9', 'Cat', 'cat', 'CAT', 'c09', 'c9b', 'b']
    random.seed(0)
    orders = {tuple(number_classes(random.sample(names, len(names)))) for _ in range(50)}
    assert orders == {('b', 'c09', 'c9', 'c9b', 'c10', 'CAT', 'Cat', 'cat')}


def test_every_subset_is_told_or_refused_by_name():
    everything = ('cat', 'dog', 'emu', 'gnu', 'Cat')
    for size in range(1, 6):
        for names in itertools.combinations(everything, size):
            others, missing = set(names) - {*PETS.class_to_idx}, {*PETS.class_to_idx} - set(names)
            if others:
                with pytest.raises(ValueError, match='here has the class.* which the list lacks') as refusal:
                    check_names(names, PETS, 'here')
                assert all(name in str(refusal.value) for name in others | missing)
                assert '--class-map' in str(refusal.value)
                assert ('renamed' in str(refusal.value)) == bool(missing)
            else:
                told = check_names(names, PETS, 'here')
                assert len(told) == bool(missing) and all(name in ''.join(told) for name in missing)


def test_many_names_are_counted():
    with pytest.raises(ValueError, match='the classes n0, n1, n2, n3, n4 and 21836 more, which the list lacks'):
        check_names([f'n{index}' for index in range(21_841)], ClassList({'cat': 0}, 'the list'), 'here')


def test_who_numbers_classes_itself_must_agree_on_those_of_the_same_name():
    check_numbers({'cat': 0, 'gnu': 1}, PETS, 'here')
    with pytest.raises(ValueError, match='here gives class dog number 0, but the list gives it 1'):
        check_numbers({'gnu': 1, 'dog': 0}, PETS, 'here')


@pytest.mark.parametrize(
    'files, words',
    [
        (['a.png'], 'has no folders with images, one per class; the 1 images in it are in none'),
        (['cat/notes.txt'], 'has no folders with images'),
        (['cat/a.png', 'cat/kitten/a.png'], 'cat/kitten lies in the folder of another class, cat'),
        (['one/cat/a.png', 'two/cat/a.png'], 'two folders for the class cat, one/cat and two/cat'),
    ],
)
def test_what_makes_classes_ambiguous_is_refused(files, words, tmp_path):
    make_tree(tmp_path, *files)
    survey = survey_classes(str(tmp_path), whole=True)
    with pytest.raises(ValueError, match=words):
        check_split(survey, ClassList(number_classes(survey.classes), str(tmp_path)))


def test_a_list_from_elsewhere_settles_which_folders_are_classes(tmp_path):
    make_tree(tmp_path, 'one/cat/a.png', 'two/cat/a.png', 'dog/a.png', 'dog/emu/a.png')
    told = check_split(survey_classes(str(tmp_path), PETS.class_to_idx, whole=True), PETS)
    assert len(told) == 1 and 'innermost' in told[0]


def test_what_is_passed_over_is_named(tmp_path):
    make_tree(tmp_path, 'cat/a.png', 'dog/a.png', 'emu/a.png', 'stray.png', '.cache/a.png')
    told = check_split(survey_classes(str(tmp_path)), PETS)
    assert len(told) == 2 and '.cache' in told[0] and 'stray.png' in told[1]


def test_a_class_map_may_choose_folders_unless_one_it_names_is_missing(tmp_path):
    make_tree(tmp_path, 'cat/a.png', 'dog/a.png', 'emu/a.png')
    (tmp_path / 'two.txt').write_text('emu\ncat\n')
    survey, classes = open_split(str(tmp_path), 'two.txt')
    assert classes.class_to_idx == {'emu': 0, 'cat': 1} and classes.count == 2
    told = check_split(survey, classes)
    assert len(told) == 1 and 'the class dog, which --class-map two.txt leaves out' in told[0]
    # A split that has a class which training had no folder for is another matter.
    with pytest.raises(ValueError, match='the class gnu, which --class-map two.txt lacks'):
        check_names(['emu', 'dog', 'gnu'], classes, 'val')
    (tmp_path / 'two.txt').write_text('emu\nkat\n')
    with pytest.raises(ValueError, match='classes cat and dog, which .* has no images of the class kat: if folders'):
        check_split(*open_split(str(tmp_path), 'two.txt'))


def test_two_names_for_one_class(tmp_path):
    make_tree(tmp_path, 'Cat/a.png', 'dog/a.png')
    (tmp_path / 'both.pkl').write_bytes(pickle.dumps({'cat': 0, 'Cat': 0, 'dog': 1}))
    survey, classes = open_split(str(tmp_path), str(tmp_path / 'both.pkl'))
    assert check_split(survey, classes) == [] and name_classes(classes.class_to_idx) == {0: 'cat', 1: 'dog'}


@pytest.mark.parametrize(
    'name, content',
    [
        ('none.txt', None),
        ('map.csv', b'cat'),
        ('map.pkl', b'damaged'),
        ('map.pkl', b''),
        ('map.txt', b'\xff\xfe'),
        ('map.txt', b''),
        ('map.pkl', pickle.dumps({'cat': '0'})),
        ('map.pkl', pickle.dumps({'cat': -1})),
        ('map.pkl', pickle.dumps(['cat'])),
        ('map.pkl', pickle.dumps({'cat': True})),
        ('map.pkl', pickle.dumps(logging.info)),
    ],
)
def test_an_unusable_class_map_is_one_sentence(name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'^--class-map {tmp_path / name} '):
        list_of_map(str(tmp_path / name))


def test_an_empty_line_is_no_class(tmp_path):
    (tmp_path / 'map.txt').write_text('cat\ndog\n\n')
    assert list_of_map('map.txt', str(tmp_path)).class_to_idx == {'cat': 0, 'dog': 1}


def test_data_sets_tell_their_classes_or_not():
    assert dataset_classes(create_embedded_dataset('keepaug/cluttered-digits', num_samples=1)) == {
        str(digit): digit for digit in range(10)
    }
    assert dataset_classes(object()) == {}
