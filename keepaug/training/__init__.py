"""One step and one epoch: device, model, loss, schedule, task, loop."""

from keepaug.training.device import (
    build_forward,
    build_scaler,
    import_device_modules,
    open_device,
    seed_everything,
    use_fast_cuda_math,
)
from keepaug.training.forward import Forward
from keepaug.training.loop import LoopSettings, mean_lr, train_one_epoch
from keepaug.training.model import build_model, place_model
from keepaug.training.phases import Phases, is_evaluated, last_epoch
from keepaug.training.ranking import Ranking, check_eval_metric
from keepaug.training.recycling import exchange_maps, open_maps
from keepaug.training.refinement import NoRefinement, Refinement, build_refinement
from keepaug.training.schedule import HeldRate, build_optimizer, build_scheduler, resolve_learning_rate
from keepaug.training.task import augmented_part, build_task, compile_task, distribute_task, set_progress, stop_mixing
from keepaug.training.validation_pass import evaluate, share_statistics, validate
