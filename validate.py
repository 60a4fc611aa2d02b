#!/usr/bin/env python3
"""Validate a timm model, a checkpoint of a training run, a folder of them, or several pretrained models.

    python validate.py /data/imagenet --model resnet50 --checkpoint output/train/run/model_best.pth.tar

Every flag of timm's script keeps its meaning; `python validate.py --help` lists them and ours.
"""
import argparse
import copy
import json
import logging
from collections import OrderedDict

import torch
from timm import create_model
from timm.utils import random_seed, setup_default_logging

import keepaug  # noqa: F401  registers our networks with timm
from keepaug import engine, options
from keepaug.engine import validation
from keepaug.engine.analysis import Analysis, check_analysis, class_names, run_folder

_logger = logging.getLogger('validate')
parser = options.create_validate_parser()
options.add_ours(parser)


def validate(args) -> OrderedDict:
    """Judges one model; `args` are left as they are.

    Returns:
        `model`, `top1`, `top1_err`, `top5`, `top5_err` (or `map` and F1 scores) in percent, averaged scores if asked
        for, `param_count` in millions, `img_size` in pixels, `crop_pct`, `interpolation`; under `--early-exit` also the
        stage its head follows.

    Raises:
        ValueError: Model, checkpoint or data cannot be used.
    """
    args = copy.copy(args)  # what is resolved for one model must not stick to the next
    args.pretrained = args.pretrained or not args.checkpoint
    engine.use_fast_cuda_math()
    device = torch.device(args.device)
    precision = engine.resolve_precision(args, device)
    random_seed(args.seed)

    model, data_config, pooled = validation.load_model(args, create_model)
    early_exit = getattr(model, 'place', None)
    param_count = sum(parameter.numel() for parameter in model.parameters())
    _logger.info(f'Model {args.model} created, param count: {param_count}')
    model.to(device=device, dtype=precision.dtype)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    loader, real_labels = validation.build_loader(args, model, data_config, device, precision.dtype, pooled)
    valid_labels = validation.read_valid_labels(args.valid_labels, args.num_classes)
    model = validation.compile_model(args, model)
    if args.num_gpu > 1:
        model = torch.nn.DataParallel(model, device_ids=list(range(args.num_gpu)))
    if not args.naflex_loader:
        validation.warm_up(model, args, data_config, device, precision)

    analysis, analysis_dir = None, getattr(args, 'analysis_dir', '')  # stock's parser does not have it
    if analysis_dir:
        num_classes = len(valid_labels or range(args.num_classes))
        analysis = Analysis(num_classes, class_names(loader, num_classes), device)
    metrics = validation.measure(
        model, loader, device, precision.dtype, precision.autocast,
        prefetched=not args.no_prefetcher,
        channels_last=args.channels_last,
        valid_labels=valid_labels,
        real_labels=real_labels,
        average=args.metrics_avg,
        log_interval=args.log_freq,
        observe=analysis and analysis.update,
        evaluator=validation.build_evaluator(args, device),
    )
    metrics.pop('loss')
    _logger.info(' * ' + validation.headline(metrics))
    results = OrderedDict(
        model=args.model,
        **validation.rounded(metrics),
        param_count=round(param_count / 1e6, 2),
        img_size=data_config['input_size'][-1],
        crop_pct=1. if pooled else data_config['crop_pct'],
        interpolation=data_config['interpolation'],
    )
    if early_exit:
        results['early_exit'] = early_exit
    if analysis is not None:
        analysis.write(analysis_dir, results)
    return results


def validate_several(args, runs: list[dict[str, str]]) -> list[OrderedDict]:
    """Judges several models or checkpoints, best first; those that fail are left out, Ctrl-C keeps what is done."""
    results = []
    try:
        for run in runs:
            _logger.info(f'Validating {run["checkpoint"] or run["model"]}.')
            if args.analysis_dir:
                run['analysis_dir'] = run_folder(args.analysis_dir, **run)
            try:
                result = validate_with_retry(argparse.Namespace(**{**vars(args), **run}), retry=True)
            except ValueError as error:
                _logger.error(str(error))
                continue
            if 'error' not in result:
                results.append(OrderedDict(result, checkpoint=run['checkpoint']) if run['checkpoint'] else result)
    except KeyboardInterrupt:
        pass
    return sorted(results, key=lambda result: result['map' if args.task == 'multilabel' else 'top1'], reverse=True)


def validate_with_retry(args, retry: bool) -> OrderedDict:
    """Judges one model, with smaller batches while memory does not suffice."""
    return validation.retry_smaller(
        lambda batch_size: validate(argparse.Namespace(**{**vars(args), 'batch_size': batch_size})),
        args.batch_size * args.num_gpu, args.model, retry)


def main() -> None:
    setup_default_logging()
    args = parser.parse_args()
    options.check_validate(args)
    validation.check_averaging(args)
    engine.check_data_folder(args.dataset, args.data or args.data_dir)
    validation.check_results_file(args.results_file)
    check_analysis(args.analysis_dir, args.real_labels)
    validation.open_exported_folder(args)
    runs = validation.choose_runs(args)
    if runs == [{}]:
        results = validate_with_retry(args, args.retry)
    else:
        results = validate_several(args, runs)
    print(f'--result\n{json.dumps(results, indent=4)}')
    if args.results_file:
        validation.write_results(args.results_file, results, args.results_format)
    if not results:
        raise ValueError('None of these could be validated; the lines above say why.')


if __name__ == '__main__':
    engine.explain_errors(main)
