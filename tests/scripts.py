"""Running train.py and validate.py inside the test process."""
import shlex
import sys
from pathlib import Path
from unittest import mock

import train


def run_train(flags: str, output: Path, experiment: str = 'run') -> Path:
    """Runs train.py with a command line and gives the run's folder."""
    argv = ['train.py', *shlex.split(flags), '--output', str(output), '--experiment', experiment]
    with mock.patch.object(sys, 'argv', argv):
        train.main()
    return output / experiment
