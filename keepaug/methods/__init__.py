"""One file per method: all that the command line must know of it."""

from keepaug.methods.attentive_cutmix import AttentiveCutMixMethod
from keepaug.methods.build import (
    build_augment,
    build_method,
    check_data,
    list_records,
    outside_training,
    wrap_dataset,
    wrap_loader,
    wrap_task,
)
from keepaug.methods.copies import CopiesMethod
from keepaug.methods.cutmix_variant import CutMixVariantMethod
from keepaug.methods.cutout import CutoutMethod
from keepaug.methods.early_exit import EarlyExitMethod
from keepaug.methods.exact_resume import ExactResumeMethod
from keepaug.methods.feature_dropout import FeatureDropoutMethod
from keepaug.methods.feature_mixing import FeatureCutMixMethod, ManifoldMixupMethod
from keepaug.methods.grid_mask import GridMaskMethod
from keepaug.methods.initialization import InitializationMethod
from keepaug.methods.joint_occlusion import JointOcclusionMethod
from keepaug.methods.keep_cut import KeepCutMethod
from keepaug.methods.keep_paste import KeepPasteMethod
from keepaug.methods.keep_region import KeepMethod
from keepaug.methods.method import Flag, Method, Need
from keepaug.methods.pad_crop import PadCropMethod
from keepaug.methods.recycled import RecycledMethod
from keepaug.methods.refinement import RefinementMethod, RisksMethod
from keepaug.methods.registry import active_methods, all_methods, method_of, register_method, unregister_method
from keepaug.methods.stock_mixing import StockMixingMethod
from keepaug.methods.torchvision_policy import TorchvisionPolicyMethod
from keepaug.methods.uda import UdaMethod
from keepaug.methods.watching import WatchingMethod

__all__ = [
    'Flag',
    'KeepMethod',
    'Method',
    'Need',
    'active_methods',
    'all_methods',
    'build_augment',
    'build_method',
    'check_data',
    'list_records',
    'method_of',
    'outside_training',
    'register_method',
    'unregister_method',
    'wrap_dataset',
    'wrap_loader',
    'wrap_task',
]

# In the order in which an image, then its batch, meets them; what follows changes no image.
for _method in (
    PadCropMethod,
    TorchvisionPolicyMethod,
    CopiesMethod,
    UdaMethod,
    KeepPasteMethod,
    KeepCutMethod,
    RecycledMethod,
    CutoutMethod,
    GridMaskMethod,
    AttentiveCutMixMethod,
    CutMixVariantMethod,
    FeatureCutMixMethod,
    ManifoldMixupMethod,
    StockMixingMethod,
    JointOcclusionMethod,
    FeatureDropoutMethod,
    InitializationMethod,
    EarlyExitMethod,
    RefinementMethod,
    RisksMethod,
    ExactResumeMethod,
    WatchingMethod,
):
    register_method(_method())
