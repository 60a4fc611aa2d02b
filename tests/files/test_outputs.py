"""Files that a flag names: what cannot be written is said before the work."""

import os

import pytest

from keepaug.files.outputs import check_output_file, check_output_folder, output_file
from tests.sentences import says


@pytest.mark.parametrize('name', ['folder', 'file/curves.png', 'absent/curves.png', 'x' * 260, '/proc/curves.png'])
def test_a_file_that_cannot_be_written(name, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('in the way')
    path = os.path.join(tmp_path, name)
    with pytest.raises(ValueError) as refused:
        check_output_file(path, '--output')
    says(str(refused.value).replace(path, '/x'), '--output /x')
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder'] and os.listdir(tmp_path / 'folder') == []


def test_what_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / 'old').write_text('old')
    for name in ('old', 'new', '/dev/stdout'):
        check_output_file(os.path.join(tmp_path, name), '--output')
    check_output_folder(str(tmp_path / 'some' / 'where'), '--output')
    assert os.listdir(tmp_path) == ['old'] and (tmp_path / 'old').read_text() == 'old'


@pytest.mark.parametrize('name', ['file', 'file/below', '/proc/below'])
def test_a_folder_that_cannot_be_written(name, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    path = os.path.join(tmp_path, name)
    with pytest.raises(ValueError) as refused:
        check_output_folder(path, '--output')
    says(str(refused.value).replace(str(tmp_path), '/x'), f'--output {path}'.replace(str(tmp_path), '/x'))


def test_no_room_at_the_end_is_one_sentence(tmp_path):
    (tmp_path / 'old').write_text('old')
    with pytest.raises(ValueError) as refused, output_file(str(tmp_path / 'old'), '--output'):
        raise OSError(28, 'No space left on device', 'draft')
    says(str(refused.value), f'--output {tmp_path / "old"}', 'No space left')
    assert (tmp_path / 'old').read_text() == 'old'
