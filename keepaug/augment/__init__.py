"""Batch augmentations: small objects with hyper-parameters, and their registry."""
from keepaug.augment.base import BatchAugment, Compose
from keepaug.augment.cutout import Cutout
from keepaug.augment.joint_occlusion import JointOcclusion
from keepaug.augment.keep_cut import KeepCut
from keepaug.augment.keep_paste import KeepPaste
from keepaug.augment.label_mixing import CutMix, LabelMixer, Mixup
from keepaug.augment.registry import create_augment, list_augments, register_augment

__all__ = [
    'BatchAugment',
    'Compose',
    'CutMix',
    'Cutout',
    'JointOcclusion',
    'KeepCut',
    'KeepPaste',
    'LabelMixer',
    'Mixup',
    'create_augment',
    'list_augments',
    'register_augment',
]
