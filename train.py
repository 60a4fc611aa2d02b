#!/usr/bin/env python3
"""Train a timm model: timm's training script, plus augmentation that keeps the evidence for the label.

    python train.py --data-dir /data/imagenet --model resnet50 --keep-cut
    ./distributed_train.sh 8 --data-dir /data/imagenet --model resnet50 --keep-cut

Every flag of timm's script keeps its meaning; `python train.py --help` lists them and ours.
"""
import logging
import os
from collections import OrderedDict

import torch
from timm import create_model
from timm.utils import distribute_bn, setup_default_logging

import keepaug
from keepaug import console, data, measuring, options, record, training
from keepaug.next_step import NextStep

_logger = logging.getLogger('train')
parser = options.create_parser()


def _parse_args(argv: list[str] | None = None):
    """Options and the text of args.yaml; a YAML file given with --config lies below the command line."""
    return options.parse_args(parser, argv)


def main() -> None:
    setup_default_logging()
    args, args_text = _parse_args()
    args = keepaug.prepare(args)
    options.check_stock(args)
    data.check_data_folder(args.dataset, args.data_dir or args.data)
    data.check_class_folders(args)
    if args.check:
        _logger.info('The flags fit together.')
        return

    args.prefetcher = not args.no_prefetcher
    args.grad_accum_steps = max(1, args.grad_accum_steps)
    args.resume = record.find_resume(args)

    # Where: device, processes, number formats, seed.
    training.import_device_modules(args)
    device = training.open_device(args)
    precision = training.resolve_precision(args, device)
    training.seed_everything(args)
    exact = record.open_exact_resume(args)
    primary = args.rank == 0

    # What: the model, its data, and the task that ties them.
    model, data_config = training.build_model(args, create_model)
    model = training.place_model(model, args, device, precision)
    dataset_train = keepaug.wrap_dataset(data.build_train_dataset(args, data_config), args)
    dataset_eval = data.build_eval_dataset(args, data_config)
    mixup_fn, collate_fn = data.build_mixing(args)
    loader_train = data.build_train_loader(args, dataset_train, data_config, device, precision.dtype, collate_fn)
    batch_size = data.average_batch_size(loader_train, args.batch_size)
    if exact is not None:
        exact.check_samples(args, len(dataset_train))
    training.resolve_learning_rate(args, batch_size)
    loader_eval = None
    if dataset_eval is not None:
        loader_eval = data.build_eval_loader(args, dataset_eval, data_config, device, precision.dtype)
    task = training.build_task(args, model, device, precision.dtype)
    task = keepaug.wrap_task(task, args)
    optimizer = training.build_optimizer(args, task)

    # From where: a checkpoint; then the wrappers, in the order that keeps state dicts plain.
    start_epoch = record.resume(args, task, optimizer, precision.scaler)
    if args.model_ema:
        task.setup_ema(
            decay=args.model_ema_decay,
            use_warmup=args.model_ema_warmup,
            device='cpu' if args.model_ema_force_cpu else None,
        )
        if args.resume:
            record.resume_ema(args, task)
    if args.torchcompile:
        training.compile_task(args, task)
    if args.distributed:
        training.distribute_task(args, task, device)

    scheduler, epochs = training.build_scheduler(
        args, optimizer, len(loader_train), start_epoch, decreasing_metric=training.is_decreasing(args))
    if exact is not None:
        exact.take_up(optimizer, scheduler)
    phases = training.Phases(epochs, args.refine_epochs, args.refine_fade)
    last_epoch = training.last_epoch(args, phases.total)
    refinement = training.build_refinement(args, phases, loader_train, mixup_fn, task)
    settings = training.LoopSettings.from_args(args, device, precision, batch_size)
    settings.progress = console.open_progress(start_epoch, last_epoch, args.rank)
    risks = measuring.build_risks(args, loader_train, data_config, settings)
    training.check_eval_metric(args, task)
    output_dir, saver, watch = None, None, None
    if primary:
        record.log_augmentations(args, phases, loader_train, mixup_fn, task, data_config)
        output_dir = record.open_output_dir(args, args_text, data_config, start_epoch)
        summary = os.path.join(output_dir, 'summary.csv')
        saver = record.build_saver(args, task, optimizer, precision.scaler, output_dir, exact)
        next_step = NextStep(args, parser, saver, data_config, phases.total)
        settings.image_dir = output_dir if args.save_images else None
        record.open_wandb(args, output_dir)
        watch = record.open_watch(args, output_dir, task, dataset_train, data_config, settings, start_epoch)

    if start_epoch >= last_epoch:
        flag = '--stop-epoch' if last_epoch < phases.total else '--epochs'
        _logger.info(
            f'Nothing to do: {start_epoch} epochs are done and the run ends after {last_epoch}; raise {flag} to go on.')
    results, interrupted = [], False
    best_metric, best_epoch = (saver.best_metric, saver.best_epoch) if primary else (None, None)
    try:
        for epoch in range(start_epoch, last_epoch):
            data.seed_epoch(args, epoch)
            data.set_epoch(loader_train, epoch)
            training.tell_progress(task, epoch, epochs)
            if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
                training.stop_mixing(loader_train, mixup_fn, task)
            if refinement is not None:
                scheduler = refinement.begin(epoch, optimizer, scheduler)

            train_metrics = training.train_one_epoch(
                epoch, task, loader_train, optimizer, settings,
                scheduler=scheduler, saver=saver, mixup_fn=mixup_fn)
            if args.distributed and args.dist_bn in ('broadcast', 'reduce'):
                distribute_bn(task.get_trainable_module(), args.world_size, args.dist_bn == 'reduce')
            if not (training.is_evaluated(args, epoch + 1, last_epoch) or phases.ends(epoch)):
                if scheduler is not None:
                    scheduler.step(epoch + 1)
                continue

            eval_metrics = OrderedDict()
            if loader_eval is not None:
                eval_metrics = training.evaluate(args, task, loader_eval, settings)
            ranking = (eval_metrics or train_metrics)[training.tracked_metric(args)]
            if primary:
                extra = {}
                if phases.refined or risks is not None:
                    extra['phase'] = phases.name(epoch)
                if risks is not None:
                    extra.update(risks.measure(task, mixup_fn))
                record.write_summary(
                    epoch, train_metrics, eval_metrics, summary, lr=training.mean_lr(optimizer), extra=extra,
                    log_wandb=args.log_wandb and watch is None)
                if watch is not None:
                    watch.log(epoch, record.name_metrics(train_metrics, eval_metrics, training.mean_lr(optimizer), extra))
                best_metric, best_epoch = saver.save_checkpoint(epoch, metric=ranking)
                if epoch + 1 in args.save_epochs:
                    saver.save_milestone(epoch + 1)
            if scheduler is not None:
                scheduler.step(epoch + 1, ranking)
            results.append({'epoch': epoch, 'train': train_metrics, 'validation': eval_metrics})
    except KeyboardInterrupt:
        interrupted = True
        _logger.info('Interrupted. What was saved stays.')
    except Exception as error:
        if primary:
            error.next_step = next_step.lines()
        raise

    if args.distributed:
        torch.distributed.destroy_process_group()
    if best_metric is not None:
        _logger.info(f'*** Best metric: {best_metric} (epoch {best_epoch})')
    if primary:
        if refinement is not None and (change := record.describe_refinement(args, phases, summary)):
            _logger.info(f'*** Refinement, {change}')
        record.print_results(results, args)
        for line in next_step.lines(finished=not interrupted):
            _logger.info(line)


if __name__ == '__main__':
    console.explain_errors(main)
