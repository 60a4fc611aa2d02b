"""What tests share."""
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # train.py and validate.py lie beside the package


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors are faster, and the golden numbers were measured, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
