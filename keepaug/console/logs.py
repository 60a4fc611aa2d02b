"""What other packages have to tell, kept out of the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def muted(module: ModuleType) -> Iterator[None]:
    """Keeps what a module has to tell out of the log, warnings excepted."""
    logger = logging.getLogger(module.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
