"""Loader workers that cannot hand over what they made.

A worker leaves its batches to a thread that moves them to memory which the main process sees. What goes wrong in there,
above all that /dev/shm is full, Python prints and forgets, and the main process waits for the batch for ever. Here the
error takes the place of the batch, and is raised where the batch is asked for.
"""

from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

from torch.utils.data import get_worker_info

from keepaug.data.seeding import plain_loader
from keepaug.private import ExceptionWrapper


def report_failures(loader: Any) -> Any:
    """A loader of timm's whose workers report what they cannot hand over; it must not have been asked for batches."""
    plain = plain_loader(loader)
    plain.worker_init_fn = ReportingWorker(plain.worker_init_fn)
    return loader


class ReportingWorker:
    """Begins a worker. An object, so that spawned workers can have it.

    Args:
        begin: What begins it otherwise, or None.
    """

    def __init__(self, begin: Callable[[int], None] | None):
        self.begin = begin

    def __call__(self, worker: int) -> None:
        # Python's own place for this, of the worker's process alone.
        Queue._on_queue_feeder_error = _hand_over_error  # type: ignore[attr-defined]
        if self.begin is not None:
            self.begin(worker)


def _hand_over_error(queue: Queue, error: Exception, item: tuple[int, Any]) -> None:
    batch, _ = item
    worker = get_worker_info()
    queue.put((batch, ExceptionWrapper(where=f'in DataLoader worker process {worker.id if worker else ""}')))
