#!/usr/bin/env python3
"""Train a timm model: timm's training script, plus augmentation that keeps the evidence for the label.

    python train.py --data-dir /data/imagenet --model resnet50 --keep-cut
    ./distributed_train.sh 8 --data-dir /data/imagenet --model resnet50 --keep-cut

Every flag of timm's script keeps its meaning; `python train.py --help` lists them and ours.
"""

import argparse
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what follows takes seconds, which Ctrl-C ends without a word

import torch
from timm import create_model
from timm.data import Mixup
from timm.scheduler.scheduler import Scheduler
from timm.task import TrainingTask
from timm.utils import setup_default_logging

import keepaug
from keepaug import console, data, methods, options, record, training
from keepaug.files.locks import join_sweep_attempt, releasing_folders
from keepaug.next_step import ModelFit, NextStep, fit_model

_logger = logging.getLogger('train')
parser = options.create_parser()
# timm's sweep.py knows this script by these names too.
config_parser = options.create_config_parser(parser)
_sweep_lock_fds: list[int] = []


def _parse_args(argv: list[str] | None = None):
    """Options and the text of args.yaml; a YAML file given with --config lies below the command line."""
    given, _ = config_parser.parse_known_args(argv)
    _join_sweep_attempt(given.sweep_locks, *given.sweep_attempt)
    return options.parse_args(parser, argv)


def _join_sweep_attempt(locks: Sequence[str], file: str, id: str) -> None:
    """Holds a sweep's locks until the process exits, and ends it here if the sweep no longer wants this attempt."""
    join_sweep_attempt(locks, file, id, _sweep_lock_fds)


@releasing_folders()
def main() -> None:
    setup_default_logging()
    args, args_text = _parse_args()
    args = keepaug.prepare(args)
    training.import_device_modules(args)  # which may bring the device, a backend, a model
    data.check_data_folder(args.dataset, args.data_dir or args.data)
    options.check_stock(args)
    data.check_named_set(args)
    data.check_class_map(args, args.train_split, '--train-split')
    data.check_class_folders(args)
    methods.check_data(args)
    record.check_output(args)
    if args.check:
        check(args)
        return

    # Where: device and processes, and the folder, which is held from before it is read.
    device = training.open_device(args)
    record.hold_folder(args)
    run = build(args, device)
    open_record(run, args_text)
    finished = False
    try:
        with console.waiting_for_batches():
            complete_record(run)
            for epoch in range(run.start_epoch, run.last_epoch):
                train_epoch(run, epoch)
        finished = True
    except console.Terminated:
        run.recorder.save_unfinished(run.settings.progress.last_update)
        _logger.info('Ended by SIGTERM. Saved files are kept.')
    except KeyboardInterrupt:
        _logger.info('Interrupted. Saved files are kept.')
    except Exception as error:
        if run.next_step is not None:
            vars(error)['next_step'] = run.next_step.lines(diverged=isinstance(error, console.RunFailed))
        raise
    finish(run, finished)


@dataclass
class Run:
    """What the epochs of a run have in common."""

    args: argparse.Namespace
    task: TrainingTask
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler | training.HeldRate
    loader_train: Any
    loader_eval: Any
    mixup_fn: Mixup | None
    settings: training.LoopSettings
    phases: training.Phases
    refinement: training.Refinement | training.NoRefinement
    ranking: training.Ranking
    exact: record.StockResume
    fit: ModelFit | None
    dataset_train: Any
    data_config: dict[str, Any]
    start_epoch: int
    last_epoch: int
    recorder: record.Recorder | record.NoRecorder = field(default_factory=record.NoRecorder)
    next_step: NextStep | None = None


def check(args: argparse.Namespace) -> None:
    """Builds what a run would be made of, as far as that is at hand, and trains on no image."""
    away = options.to_be_fetched(args)
    if away:
        record.check_weight_files(args)
        _logger.info(f'The flags fit together. {away}, so --check looks at neither the model nor the data.')
        return
    run = build(options.rehearsed(args), torch.device('cpu'))
    options.check_share(run.args, run.loader_train.dataset, args.aug_repeats)
    record.log_augmentations(run.args, run.phases, run.loader_train, run.mixup_fn, run.task, run.data_config)
    _logger.info('The flags fit together. The model can be built and the data are there; --check trains on no image.')


def build(args: argparse.Namespace, device: torch.device) -> Run:
    """Everything that the epochs of a run need, from its options."""
    args.prefetcher = not args.no_prefetcher
    args.grad_accum_steps = max(1, args.grad_accum_steps)

    # How: number formats, seed.
    args.resume = record.find_resume(args)
    forward = training.build_forward(args, device)
    scaler = training.build_scaler(forward)
    training.seed_everything(args)
    exact = record.open_exact_resume(args)
    resumed = exact.resumed or (record.check_resumed(args) if args.resume else None)

    # What: the model, its data, and the task that ties them.
    model, data_config = training.build_model(args, create_model)
    fit = fit_model(args, model, data_config)
    model = training.place_model(model, args, forward)
    dataset_train = keepaug.wrap_dataset(data.build_train_dataset(args, data_config), args)
    dataset_eval = data.build_eval_dataset(args, data_config)
    mixup_fn, collate_fn = data.build_mixing(args)
    loader_train = data.build_train_loader(args, dataset_train, data_config, device, forward.dtype, collate_fn)
    loader_train = methods.wrap_loader(loader_train, dataset_train, args)
    batch_size = data.average_batch_size(loader_train, args.batch_size)
    exact.check_samples(args, dataset_train)
    training.resolve_learning_rate(args, batch_size)
    loader_eval = None
    if dataset_eval is not None:
        loader_eval = data.build_eval_loader(args, dataset_eval, data_config, device, forward.dtype)
    task = training.build_task(args, model, device, forward.dtype)
    task = keepaug.wrap_task(task, args)
    training.open_maps(task, dataset_train)
    optimizer = training.build_optimizer(args, task)

    # From where: a checkpoint; then the wrappers, in the order that keeps state dicts plain.
    start_epoch = record.resume(args, task, optimizer, scaler, resumed)
    if args.model_ema:
        task.setup_ema(
            decay=args.model_ema_decay,
            use_warmup=args.model_ema_warmup,
            device=torch.device('cpu') if args.model_ema_force_cpu else None,
        )
        if args.resume:
            record.resume_ema(args, task)
    if args.torchcompile:
        training.compile_task(args, task)
    if args.distributed:
        training.distribute_task(args, task, device)

    # How long, how fast, and what is judged.
    ranking = training.Ranking.from_args(args)
    training.check_eval_metric(args, task)
    scheduler, epochs = training.build_scheduler(
        args, optimizer, len(loader_train), start_epoch, decreasing_metric=ranking.decreasing
    )
    exact.restore(task, optimizer, scheduler)
    phases = training.Phases(epochs, args.refine_epochs, args.refine_fade)
    last_epoch = training.last_epoch(args, phases.total)
    refinement = training.build_refinement(args, phases, loader_train, mixup_fn, task)
    settings = training.LoopSettings.from_args(args, forward, scaler, batch_size, phases.scheduled)
    return Run(
        args,
        task,
        optimizer,
        scheduler,
        loader_train,
        loader_eval,
        mixup_fn,
        settings,
        phases,
        refinement,
        ranking,
        exact,
        fit,
        dataset_train,
        data_config,
        start_epoch,
        last_epoch,
    )


def open_record(run: Run, args_text: str) -> None:
    """What a run leaves behind, and says: the first process writes."""
    args, settings = run.args, run.settings
    settings.progress = console.open_progress(run.start_epoch, run.last_epoch, args.rank)
    records = methods.list_records(run.dataset_train, args) if args.rank == 0 else None
    output_dir = record.open_output_dir(args, args_text, run.data_config, run.start_epoch, records)
    if args.rank == 0:
        record.log_augmentations(args, run.phases, run.loader_train, run.mixup_fn, run.task, run.data_config)
        settings.image_dir = output_dir if args.save_images else None
        saver = record.build_saver(args, run.task, run.optimizer, settings.scaler, output_dir, run.exact, run.ranking)
        run.recorder = record.open_recorder(
            args,
            saver,
            run.ranking,
            run.phases,
            run.task,
            run.mixup_fn,
            run.loader_train,
            run.dataset_train,
            run.data_config,
            settings,
            run.start_epoch,
        )
        run.next_step = NextStep(args, parser, saver, run.fit, run.data_config, run.phases.total)
    if run.start_epoch >= run.last_epoch:
        flag = '--stop-epoch' if run.last_epoch < run.phases.total else '--epochs'
        skipped = args.start_epoch is not None
        done = f'--start-epoch {run.start_epoch} skips as many' if skipped else f'{run.start_epoch} epochs are done'
        _logger.warning(f'Nothing to do: {done} and the run ends after {run.last_epoch}. Raise {flag} to train more.')


def complete_record(run: Run) -> None:
    """Writes what an epoch lacks that was saved before the run was stopped; saving comes before all else."""
    epoch = run.recorder.incomplete_epoch()
    if epoch is not None:
        set_augmentation(run, epoch)
        run.recorder.complete()


def set_augmentation(run: Run, epoch: int) -> None:
    """Lets images be augmented as they are in an epoch."""
    training.set_progress(run.task, epoch, run.phases.scheduled)
    if run.args.mixup_off_epoch and epoch >= run.args.mixup_off_epoch:
        training.stop_mixing(run.loader_train, run.mixup_fn, run.task)
    run.refinement.set_strength(epoch)


def train_epoch(run: Run, epoch: int) -> None:
    """Trains an epoch; where that is due, validates and records it."""
    args, task, optimizer = run.args, run.task, run.optimizer
    data.seed_epoch(args, epoch)
    data.set_epoch(run.loader_train, epoch)
    set_augmentation(run, epoch)
    run.scheduler = run.refinement.hold_rate(epoch, optimizer, run.scheduler)

    train_metrics = training.train_one_epoch(
        epoch,
        task,
        run.loader_train,
        optimizer,
        run.settings,
        scheduler=run.scheduler,
        saver=run.recorder.saver,
        mixup_fn=run.mixup_fn,
    )
    training.share_statistics(task, run.settings)
    training.exchange_maps(task)
    if not (training.is_evaluated(args, epoch + 1, run.last_epoch) or run.phases.ends(epoch)):
        run.scheduler.step(epoch + 1)
        return

    eval_metrics: dict[str, float] = {}
    if run.loader_eval is not None:
        eval_metrics = training.evaluate(task, run.loader_eval, run.settings)
    metric = run.ranking.value(train_metrics, eval_metrics)
    run.recorder.record(epoch, train_metrics, eval_metrics, metric, lr=training.mean_lr(optimizer))
    run.scheduler.step(epoch + 1, metric)


def finish(run: Run, finished: bool) -> None:
    """Says what came of the run, and what can be done with it."""
    if run.args.distributed and finished:  # else others may be gone already
        torch.distributed.destroy_process_group()
    run.recorder.finish()
    if run.next_step is not None:
        for line in run.next_step.lines(finished):
            _logger.info(line)
        if finished and run.next_step.lost:
            raise SystemExit(1)


if __name__ == '__main__':
    console.explain_errors(main)
