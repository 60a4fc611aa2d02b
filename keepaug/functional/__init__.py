"""Pure functions on tensors: no state, and randomness only from a generator or torch's default one."""

from keepaug.functional.attention import attention_grid, top_patches_mask
from keepaug.functional.consistency import annealed_cross_entropy, annealing_threshold, consistency_loss
from keepaug.functional.masks import cutout_mask, grid_mask, hide_and_seek_mask
from keepaug.functional.mixing import mix_targets
from keepaug.functional.regions import boxes_to_mask, region_scores, sample_regions
from keepaug.functional.saliency import input_saliency, norm_grad_saliency

__all__ = [
    'annealed_cross_entropy',
    'annealing_threshold',
    'attention_grid',
    'boxes_to_mask',
    'consistency_loss',
    'cutout_mask',
    'grid_mask',
    'hide_and_seek_mask',
    'input_saliency',
    'mix_targets',
    'norm_grad_saliency',
    'region_scores',
    'sample_regions',
    'top_patches_mask',
]
