"""Batch augmentations: small objects with hyper-parameters, and their registry."""

from keepaug.augment.attentive_cutmix import AttentiveCutMix
from keepaug.augment.base import BatchAugment, Compose, check_edge
from keepaug.augment.cutmix_variants import CutMixVariant
from keepaug.augment.cutout import Cutout
from keepaug.augment.feature_mixing import FeatureCutMix, ManifoldMixup
from keepaug.augment.grid_mask import GridMask
from keepaug.augment.joint_occlusion import JointOcclusion
from keepaug.augment.keep_cut import KeepCut
from keepaug.augment.keep_paste import KeepPaste
from keepaug.augment.label_mixing import CutMix, LabelMixer, Mixup
from keepaug.augment.policy import Policy
from keepaug.augment.recycled import SaliencyMaps
from keepaug.augment.registry import create_augment, list_augments, register_augment

__all__ = [
    'AttentiveCutMix',
    'BatchAugment',
    'Compose',
    'CutMix',
    'CutMixVariant',
    'Cutout',
    'FeatureCutMix',
    'GridMask',
    'JointOcclusion',
    'KeepCut',
    'KeepPaste',
    'LabelMixer',
    'ManifoldMixup',
    'Mixup',
    'Policy',
    'SaliencyMaps',
    'check_edge',
    'create_augment',
    'list_augments',
    'register_augment',
]
