"""The values that each number of a flag may take, in every command: one table for all flags but those of the methods.

Those stand with their methods (`Flag.range`).
"""

import argparse
from collections.abc import Iterator, Mapping

from keepaug.methods.method import Refusal, spell
from keepaug.ranges import COUNT, PROBABILITY, Range

ANY = Range()  # any finite number
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(least=0)
SHARE = Range(least=0, below=1)
FACTOR = Range(above=0, most=1)
NATURAL = Range(least=0, whole=True)
# Beyond these, memory or patience does not suffice on any machine, and numbers are slips of the pen.
BATCH = Range(least=1, most=2**20, whole=True, unit='image')
EDGE = Range(least=1, most=2**14, whole=True, unit='pixel')
BORDER = Range(least=0, most=2**10, whole=True, unit='pixel')
CLASSES = Range(least=1, most=10**7, whole=True)
CHANNELS = Range(least=1, most=2**12, whole=True)
FEATURES = Range(least=1, most=2**20, whole=True)
PATCHES = Range(least=1, most=2**20, whole=True, unit='patch')
EPOCHS = Range(least=1, most=10**7, whole=True)
REPEATS = Range(least=0, most=2**10)
REGIONS = Range(least=1, most=2**10, whole=True)
WORKERS = Range(least=0, most=2**10, whole=True, unit='process')
ROWS = Range(least=1, most=2**10, whole=True, unit='image')  # of a sheet
# What NumPy's streams can be seeded with.
SEED = Range(least=0, most=2**32 - 1, whole=True)
# Old launchers count from 0, and pass -1 where there is but one process.
LOCAL_RANK = Range(least=-1, most=2**16, whole=True)
# An evaluation crop keeps its share of the resized image, which is as much larger.
CROP_SHARE = Range(least=0.05, most=2)

# By the name of the option; of a list for each of its entries.
RANGES: dict[str, Range] = {
    **dict.fromkeys(
        (
            'reprob',
            'mixup_prob',
            'mixup_switch_prob',
            'hflip',
            'vflip',
            'color_jitter_prob',
            'grayscale_prob',
            'gaussian_blur_prob',
            'train_size_probs',
            'naflex_patch_size_probs',
            'bce_target_thresh',
            'asl_clip',
            'loss_weight_beta',
            'poly_alpha',
            'model_ema_decay',
            'train_size_random_mix',
            'layer_decay_min_scale',
        ),
        PROBABILITY,
    ),
    **dict.fromkeys(('smoothing', 'drop', 'drop_path', 'drop_block', 'momentum', 'opt_betas'), SHARE),
    **dict.fromkeys(('layer_decay', 'bn_momentum'), FACTOR),
    **dict.fromkeys(
        (
            'lr',
            'weight_decay',
            'mixup',
            'cutmix',
            'min_lr',
            'warmup_lr',
            'color_jitter',
            'lr_noise',
            'lr_noise_pct',
            'lr_noise_std',
            'layer_decay_no_opt_scale',
            'cutmix_minmax',
            'bce_pos_weight',
            'distill_loss_weight',
            'task_loss_weight',
            'asl_gamma_neg',
            'asl_gamma_pos',
            'poly_gamma',
            'db_focal_gamma',
            'drop_connect',
        ),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        (
            'lr_base',
            'clip_grad',
            'opt_eps',
            'bn_eps',
            'std',
            'scale',
            'ratio',
            'decay_epochs',
            'decay_rate',
            'lr_cycle_mul',
            'lr_cycle_decay',
            'lr_k_decay',
            'lr_stable_timescale',
            'kd_temperature',
            'loss_weight_max',
            'train_size_schedule_spread',
            'twoway_tn',
            'twoway_tp',
        ),
        POSITIVE,
    ),
    **dict.fromkeys(
        (
            'head_init_scale',
            'head_init_bias',
            'mean',
            'loss_weight_power',
            'poly_epsilon',
            'db_init_bias',
            'db_neg_scale',
        ),
        ANY,
    ),
    **dict.fromkeys(('batch_size', 'validation_batch_size', 'train_batch_sizes'), BATCH),
    **dict.fromkeys(('img_size', 'train_img_sizes', 'naflex_patch_sizes', 'input_size'), EDGE),
    **dict.fromkeys(('kd_student_feature_dim', 'kd_teacher_feature_dim'), FEATURES),
    **dict.fromkeys(('naflex_train_seq_lens', 'naflex_max_seq_len'), PATCHES),
    **dict.fromkeys(('epochs', 'stop_epoch', 'save_epochs'), EPOCHS),
    **dict.fromkeys(('aug_repeats', 'epoch_repeats'), REPEATS),
    **dict.fromkeys(
        (
            'checkpoint_hist',
            'log_interval',
            'log_freq',
            'val_interval',
            'lr_base_size',
            'grad_accum_steps',
            'lr_cycle_limit',
            'train_num_samples',
            'val_num_samples',
            'num_samples',
            'train_batches_per_epoch',
            'num_gpu',
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            'start_epoch',
            'recovery_interval',
            'warmup_epochs',
            'cooldown_epochs',
            'patience_epochs',
            'mixup_off_epoch',
            'tta',
            'decay_milestones',
        ),
        NATURAL,
    ),
    'aug_splits': Range(least=0, most=2**10, whole=True),
    'workers': WORKERS,
    'num_classes': CLASSES,
    'in_chans': CHANNELS,
    'recount': REGIONS,
    'crop_border_pixels': BORDER,
    'crop_pct': CROP_SHARE,
    'multilabel_threshold': Range(above=0, below=1),
    'seed': SEED,
    'local_rank': LOCAL_RANK,
    'preview_images': ROWS,
    'preview_statistics': COUNT,
    'preview_sizes': EDGE,
    # Of the evaluations of validate.py, the study and the demo.
    'eval_samples': COUNT,
    'cam_threshold': FACTOR,
    'fgsm_eps': Range(least=0, most=255),
    'odin_temperature': POSITIVE,
    'odin_eps': PROBABILITY,
    'seeds': Range(least=1, most=2**10, whole=True),
    'images': Range(least=1, most=2000, whole=True, unit='image'),  # as many cluttered digits are there to train on
}

# Where two commands call different things alike.
STUDY_RANGES = {'seeds': RANGES['seeds'], 'scale': FACTOR}


def range_rows(args: argparse.Namespace, ranges: Mapping[str, Range] = RANGES) -> Iterator[Refusal]:
    """Rows (refused, sentence): every number of a command's options that lies outside its range."""
    options = {**vars(args), **vars(vars(args).get('taken_over', argparse.Namespace()))}  # as they were typed
    for name, allowed in ranges.items():
        value = options.get(name)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            problem = allowed.problem(number)
            yield bool(problem), f'{spell(name)} {problem}, got {number}.'
