"""What a training run is made of, each part built from the options on timm's own parts."""
from keepaug.engine.checkpoint import build_saver, check_checkpoint, find_resume, resume, resume_ema
from keepaug.engine.data import (
    average_batch_size,
    build_eval_dataset,
    build_eval_loader,
    build_mixing,
    build_train_dataset,
    build_train_loader,
    check_class_folders,
    check_data_folder,
    set_epoch,
)
from keepaug.engine.device import (
    import_device_modules,
    open_device,
    resolve_precision,
    seed_everything,
    use_fast_cuda_math,
)
from keepaug.engine.exact_resume import open_exact_resume
from keepaug.engine.inventory import log_augmentations
from keepaug.engine.loop import LoopSettings, mean_lr, train_one_epoch, validate
from keepaug.engine.model import build_model, place_model
from keepaug.engine.progress import open_progress
from keepaug.engine.refine import Phases, build_refinement, describe_refinement
from keepaug.engine.risk import build_risks
from keepaug.engine.run import is_evaluated, last_epoch, name_metrics, open_output_dir, print_results, write_summary
from keepaug.engine.schedule import build_optimizer, build_scheduler, resolve_learning_rate
from keepaug.engine.seeding import seed_epoch
from keepaug.engine.sentence import explain_errors
from keepaug.engine.task import build_task, compile_task, distribute_task, stop_mixing, tell_progress, wrap_task
from keepaug.engine.tracking import check_eval_metric, evaluate, is_decreasing, open_wandb, tracked_metric
