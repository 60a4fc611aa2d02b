"""The private names of torch, torchvision and timm that we use; nothing else imports any.

A new release may move them: this is the file to mend. Each stands here for want of a public name, because

* `ExceptionWrapper`: a loader worker's error reaches the main process in it, and what it holds is not said otherwise;
* `default_collate_fn_map`: a collate function for types of our own has to build upon it, as torch's documentation says;
* `IntermediateLayerGetter`: torchvision's detectors wrap a backbone in it, and an export is checked against that;
* `feature_take_indices`: timm's models read their argument `indices` with it, and ours do the same;
* `HF_SAFE_WEIGHTS_NAME`, `save_config_for_hf`: the folder that timm loads has to be named and described as by timm;
* `sample_dirichlet`: the one gamma variate of torch that takes a generator.
"""

import torch
from timm.models._features import feature_take_indices
from timm.models._hub import HF_SAFE_WEIGHTS_NAME, save_config_for_hf
from torch._utils import ExceptionWrapper
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision.models._utils import IntermediateLayerGetter

sample_dirichlet = torch._sample_dirichlet

__all__ = [
    'HF_SAFE_WEIGHTS_NAME',
    'ExceptionWrapper',
    'IntermediateLayerGetter',
    'default_collate_fn_map',
    'feature_take_indices',
    'sample_dirichlet',
    'save_config_for_hf',
]
