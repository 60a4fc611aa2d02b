"""NumPy's files of arrays, as the weights of Flax come in them, looked at before anything of their size is made."""

import math
import os
import zipfile
from typing import IO

from numpy.lib import format as numpy_format

# How many times its own size an archive may unpack to; weights hardly compress.
MOST_UNPACKED = 20
MOST_ARRAYS = 100_000


def check_arrays(path: str) -> None:
    """Looks at the headers of a `.npz` file.

    Raises:
        ValueError: It is no archive of arrays of plain numbers, or unpacks to far more than its own size.
        zipfile.BadZipFile: It is damaged.
    """
    with zipfile.ZipFile(path) as archive:  # whatever its name says: one array alone is no model
        members = archive.infolist()
        if not 0 < len(members) <= MOST_ARRAYS:
            raise ValueError('no arrays, or too many')
        if sum(member.file_size for member in members) > MOST_UNPACKED * os.path.getsize(path):
            raise ValueError('unpacks to far more than its own size')
        for member in members:
            with archive.open(member) as file:
                if _bytes_of_array(file) > member.file_size:
                    raise ValueError('an array that is larger than its place')


def _bytes_of_array(file: IO[bytes]) -> int:
    """Bytes that an array takes, as its header says."""
    version = numpy_format.read_magic(file)
    read_header = {
        (1, 0): numpy_format.read_array_header_1_0,
        (2, 0): numpy_format.read_array_header_2_0,
    }[version]
    shape, _, kind = read_header(file)
    if kind.hasobject or any(length < 0 for length in shape):
        raise ValueError('more than plain numbers')
    return math.prod(shape) * kind.itemsize
