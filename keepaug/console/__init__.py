"""Errors as sentences, interrupts, progress."""

from keepaug.console.errors import RunFailed, explain_errors, first_line
from keepaug.console.interrupts import Terminated, waiting_for_batches
from keepaug.console.progress import open_progress
