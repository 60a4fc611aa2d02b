"""The folder of a run and the records that belong to it from its start."""

import argparse

import pytest

from keepaug.files import locks
from keepaug.record.run_folder import open_output_dir


def test_records_may_name_files_in_no_encoding(tmp_path):
    """As a file system gives such names; the run goes on where they are the same, and nowhere else."""
    records = {'labels.csv': '0,0,cat,na\udcefve.png\n'}
    args = argparse.Namespace(distributed=False, rank=0, output=str(tmp_path), experiment='run', resume='')
    try:
        open_output_dir(args, 'lr: 1\n', {}, 0, records)
        assert (tmp_path / 'run' / 'labels.csv').read_bytes().endswith(b'na\xefve.png\n')
        args.resume = str(tmp_path / 'run' / 'last.pth.tar')
        open_output_dir(args, 'lr: 1\n', {}, 1, records)
        with pytest.raises(ValueError, match='continues a run that had another .*labels.csv'):
            open_output_dir(args, 'lr: 1\n', {}, 1, {'labels.csv': '0,0,cat,naive.png\n'})
    finally:
        locks.release_folders()
