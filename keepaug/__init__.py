"""timm's training script, drop-in, plus augmentation that keeps the evidence for the label."""

from keepaug import models
from keepaug.augment import SaliencyMaps, create_augment, list_augments, register_augment
from keepaug.data.transform import PlacedImages
from keepaug.methods import register_method, wrap_dataset, wrap_task
from keepaug.models import EarlyExit
from keepaug.options import add_arguments, prepare

__version__ = '0.1.0'
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
