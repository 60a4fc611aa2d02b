"""Files that are written whole or not at all, and never through a link that someone left."""

import os

import pytest

from keepaug.files.drafts import whole_file


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / 'precious'
    path.write_text('precious')
    return path


def write(path, **settings) -> None:
    with whole_file(path, **settings) as draft, open(draft, 'w') as file:
        file.write('new')


@pytest.mark.parametrize('name', ['file.csv', '.file-draft.csv'])
def test_links_make_way(name, precious, tmp_path):
    """At the name itself, and at the one that is written to first."""
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / name).symlink_to(precious)
    write(folder / 'file.csv')
    assert precious.read_text() == 'precious'
    assert os.listdir(folder) == ['file.csv'] and (folder / 'file.csv').read_text() == 'new'
    assert not (folder / 'file.csv').is_symlink()


def test_a_link_that_was_typed_stays(precious, tmp_path):
    (tmp_path / 'link').symlink_to(precious)
    write(tmp_path / 'link', typed=True)
    assert (tmp_path / 'link').is_symlink() and precious.read_text() == 'new'


def test_a_device_that_was_typed_is_written_to(tmp_path):
    reading, writing = os.pipe()
    write(f'/proc/self/fd/{writing}', typed=True)
    os.close(writing)
    with open(reading) as file:
        assert file.read() == 'new'
