"""Files and folders appear whole or not at all."""

import os
import stat

import pytest

from keepaug.export.output import check_output, whole_file, whole_folder


def write(path):
    with open(path, 'w') as file:
        file.write('half')


def test_file_appears_at_the_end(tmp_path):
    path = tmp_path / 'new' / 'model.onnx'
    with whole_file(str(path)) as partial:
        write(partial)
        assert partial.endswith('.onnx') and not path.exists()
    assert path.read_text() == 'half' and os.listdir(path.parent) == ['model.onnx']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit])
def test_interrupted_file_leaves_the_old_one(error, tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_text('old')
    with pytest.raises(error), whole_file(str(path)) as partial:
        write(partial)
        raise error
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['model.onnx']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_interrupted_folder_leaves_nothing(error, tmp_path):
    with pytest.raises(error), whole_folder(str(tmp_path / 'out')) as partial:
        write(os.path.join(partial, 'first'))
        raise error
    assert os.listdir(tmp_path) == []


def test_folder_appears_with_common_permissions(tmp_path):
    (tmp_path / 'empty').mkdir()
    with whole_folder(str(tmp_path / 'empty')) as partial:
        write(os.path.join(partial, 'first'))
    assert os.listdir(tmp_path / 'empty') == ['first']
    other = tmp_path / 'other'
    other.mkdir()
    assert stat.S_IMODE((tmp_path / 'empty').stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize('write_whole', [whole_file, whole_folder])
def test_no_room_is_one_sentence(write_whole, tmp_path):
    with pytest.raises(ValueError, match='--output .*No space left on device'):
        with write_whole(str(tmp_path / 'out')) as partial:
            raise OSError(28, 'No space left on device', partial)
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(ValueError, match='--output'):
        with write_whole(str(tmp_path / 'file' / 'out')):
            pass


def test_refused_before_the_work(tmp_path):
    checkpoint = tmp_path / 'last.pth.tar'
    checkpoint.write_text('weights')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'file').write_text('in the way')
    for name, folder, suffix, word in [
        ('last.pth.tar', False, '', 'itself'),
        ('folder', True, '', 'exists'),
        ('folder', False, '', 'is a folder'),
        ('last.pth.tar/', True, '', 'itself|exists'),
        ('model.pt', False, '.onnx', '.onnx'),
    ]:
        with pytest.raises(ValueError, match=word):
            check_output(str(tmp_path / name), str(checkpoint), folder, suffix)
    check_output(str(tmp_path / 'new'), str(checkpoint), folder=True)
