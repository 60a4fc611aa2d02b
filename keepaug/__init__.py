"""timm's training script, drop-in, plus augmentation that keeps the evidence for the label."""

import signal

from keepaug import installation

if installation.is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what follows takes seconds, which Ctrl-C ends without a word

from keepaug import models
from keepaug.augment import SaliencyMaps, create_augment, list_augments, register_augment
from keepaug.data.transform import PlacedImages
from keepaug.installation import __version__
from keepaug.methods import register_method, wrap_dataset, wrap_task
from keepaug.models import EarlyExit
from keepaug.options import add_arguments, prepare

# So that `keepaug.train` and `keepaug.validate` are the scripts in a checkout too.
if not installation.INSTALLED:
    __path__.append(str(installation.HOME))
__all__ = [
    'EarlyExit',
    'PlacedImages',
    'SaliencyMaps',
    'add_arguments',
    'create_augment',
    'list_augments',
    'models',
    'prepare',
    'register_augment',
    'register_method',
    'wrap_dataset',
    'wrap_task',
]
