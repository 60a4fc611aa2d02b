"""Batch augmentations: small objects with hyper-parameters, and their registry."""
from keepaug.augment.base import BatchAugment, Compose
from keepaug.augment.cutout import Cutout
from keepaug.augment.keep_cut import KeepCut
from keepaug.augment.label_mixing import CutMix, LabelMixer, Mixup
from keepaug.augment.registry import create_augment, list_augments, register_augment

__all__ = [
    'BatchAugment',
    'Compose',
    'CutMix',
    'Cutout',
    'KeepCut',
    'LabelMixer',
    'Mixup',
    'create_augment',
    'list_augments',
    'register_augment',
]
