"""What a number was measured on."""

import platform
from pathlib import Path

import timm
import torch


def describe_machine(device: str = 'cpu') -> str:
    """Processor, threads and library versions, to stand beside measured numbers."""
    if device == 'cpu':
        threads = torch.get_num_threads()
        processor = f'{_cpu_name()}, {threads} thread{"s" if threads > 1 else ""}'
    else:
        processor = torch.cuda.get_device_name(device)
    return f'{processor}, torch {torch.__version__}, timm {timm.__version__}'


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()
