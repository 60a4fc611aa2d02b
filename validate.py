#!/usr/bin/env python3
"""Validate a timm model, a checkpoint of a training run, a folder of them, or several pretrained models.

    python validate.py /data/imagenet --model resnet50 --checkpoint output/train/run/model_best.pth.tar

Every flag of timm's script keeps its meaning; `python validate.py --help` lists them and ours.
"""

import argparse
import logging
import math
import os
import signal
from collections import OrderedDict

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what follows takes seconds, which Ctrl-C ends without a word

import torch
from timm import create_model
from timm.utils import random_seed, setup_default_logging

import keepaug  # noqa: F401  registers our networks with timm
from keepaug import console, data, evaluation, options, training, validation
from keepaug.console.processes import is_distributed, process_count, process_rank
from keepaug.console.progress import open_progress
from keepaug.evaluation import Gallery
from keepaug.files.plain_json import to_json
from keepaug.validation import runs as validated
from keepaug.validation.analysis import Analysis, check_analysis

_logger = logging.getLogger('validate')
parser = options.create_validate_parser()
options.add_ours(parser)


def validate(args, gallery: Gallery | None = None) -> OrderedDict:
    """Judges one model; `args` are left as they are.

    Args:
        args: Options.
        gallery: Takes up what the evaluations beyond accuracy find.

    Returns:
        `model`, `top1`, `top1_err`, `top5`, `top5_err` (or `map` and F1 scores) in percent, averaged scores if asked
        for, `param_count` in millions, `img_size` in pixels, `crop_pct`, `interpolation`; under `--early-exit` also the
        stage its head follows, under `--evaluate` what each evaluation found.

    Raises:
        ValueError: Model, checkpoint or data cannot be used.
    """
    args = options.complete_validation(args)  # a copy: what is resolved for one model must not stick to the next
    args.pretrained = args.pretrained or not args.checkpoint
    training.use_fast_cuda_math()
    device = torch.device(args.device)
    forward = training.build_forward(args, device)
    random_seed(args.seed)
    evaluation.check_evaluations(args)

    bare, data_config, pooled = validation.load_model(args, create_model)
    early_exit = getattr(bare, 'place', None)
    param_count = sum(parameter.numel() for parameter in bare.parameters())
    _logger.info(f'Model {args.model} created, param count: {param_count}')
    forward.place_model(bare)
    valid_labels = validation.read_valid_labels(args.valid_labels, args.num_classes)
    classes = validation.find_classes(args, bare, valid_labels)
    dataset, real_labels = validation.build_validation_set(args, data_config, classes)

    def make_loader(images):
        return validation.build_loader(args, images, bare, data_config, device, forward.dtype, pooled)

    loader = make_loader(dataset)
    model = validation.compile_model(args, bare)
    if args.num_gpu > 1:
        model = torch.nn.DataParallel(model, device_ids=list(range(args.num_gpu)))
    if not args.naflex_loader:
        validation.warm_up(model, args, data_config, forward)

    num_classes = len(valid_labels or range(args.num_classes))
    names = validation.class_names(dataset, classes, num_classes)
    progress = open_progress(rank=process_rank())
    analysis, analysis_dir = None, args.analysis_dir
    if analysis_dir:
        analysis = Analysis(num_classes, names, device)
    evaluations = {}
    if args.evaluate:
        subject = evaluation.build_subject(args, model, bare, data_config, forward, valid_labels, names)
        images = evaluation.build_data(args, dataset, make_loader, data_config, forward, progress)
        evaluations = evaluation.open_evaluations(args, subject, images)
    scores = validation.build_scores(args, real_labels, num_classes, device)
    observers = [*scores, analysis] if analysis is not None else scores
    metrics = training.validate(
        model,
        loader,
        validation.build_evaluator(args, device),
        forward,
        classes=valid_labels,
        observers=[observer.update for observer in observers],
        lines=validation.ValidationLines(args.log_freq),
        progress=progress,
        world_size=process_count(),
    )
    for score in scores:
        metrics.update(score.compute())
    metrics.pop('loss')
    _logger.info(' * ' + validation.headline(metrics))
    results = OrderedDict(
        model=args.model,
        **validation.rounded(metrics),
        param_count=round(param_count / 1e6, 2),
        img_size=data_config['input_size'][-1],
        crop_pct=1.0 if pooled else data_config['crop_pct'],
        interpolation=data_config['interpolation'],
    )
    if early_exit:
        results['early_exit'] = early_exit
    if analysis is not None:
        analysis.write(analysis_dir, results, is_primary=process_rank() == 0)
    if evaluations:
        results.update(evaluation.run_evaluations(evaluations, subject, gallery))
    return results


def validate_several(
    args, runs: list[dict[str, str]], gallery: Gallery | None = None
) -> tuple[list[OrderedDict], list[dict]]:
    """Judges several models or checkpoints; those that fail are left out, Ctrl-C keeps what is done, if anything is.

    Of several processes one that fails ends all: it may have failed alone, and what it did next would meet what the
    others still wait for.

    Returns:
        The results, best first, and the runs that failed.
    """
    results, failed, alone = [], [], process_count() == 1
    try:
        for run in runs:
            _logger.info(f'Validating {run["checkpoint"] or run["model"]}.')
            if args.analysis_dir:
                run['analysis_dir'] = os.path.join(args.analysis_dir, run['label'])
            try:
                result = validate_with_retry(argparse.Namespace(**{**vars(args), **run}), retry=alone, gallery=gallery)
            except ValueError as error:
                if not alone:
                    raise
                _logger.error(validated.explain_failure(run, error))
                failed.append(run)
                continue
            if 'error' in result:
                failed.append(run)
                continue
            results.append(OrderedDict(result, checkpoint=run['checkpoint']) if run['checkpoint'] else result)
    except KeyboardInterrupt:
        if not results:
            raise
    score = 'map' if args.task == 'multilabel' else 'top1'

    def rank(result: OrderedDict) -> float:
        return result[score] if math.isfinite(result[score]) else -math.inf

    return sorted(results, key=rank, reverse=True), failed


def check_runs(args, runs: list[dict[str, str]]) -> None:
    """Says before any data is read what a checkpoint that is named lacks for `--evaluate`.

    Raises:
        ValueError: It lacks something.
    """
    for run in runs:
        if run.get('named_by'):
            try:
                evaluation.check_evaluations(argparse.Namespace(**{**vars(args), **run}))
            except ValueError as error:
                raise ValueError(validated.explain_failure(run, error)) from error


def validate_with_retry(args, retry: bool, gallery: Gallery | None = None) -> OrderedDict:
    """Judges one model, with smaller batches while memory does not suffice."""
    return validation.retry_smaller(
        lambda batch_size: validate(argparse.Namespace(**{**vars(args), 'batch_size': batch_size}), gallery),
        args.batch_size * args.num_gpu,
        args.model,
        retry,
    )


def main() -> None:
    setup_default_logging()
    args = options.complete_validation(parser.parse_args())
    args.typed = options.typed_options(parser)
    options.check_validate(args)
    validation.check_averaging(args)
    validated.check_data_given(args)
    data.check_data_folder(args.dataset, args.data or args.data_dir, {'--split': args.split})
    data.check_named_set(args)
    data.check_class_map(args, args.split, '--split')
    validation.check_files(args)
    check_analysis(args.analysis_dir, args.real_labels)
    validated.open_exported_folder(args)
    validation.join_processes(args)
    gallery = Gallery(args.analysis_dir) if args.evaluate else None
    runs = validated.choose_runs(args)
    failed: list[dict] = []
    check_runs(args, runs)
    if len(runs) == 1 and 'checkpoint' not in runs[0]:
        results = validate_with_retry(argparse.Namespace(**{**vars(args), **runs[0]}), args.retry, gallery)
    else:
        results, failed = validate_several(args, runs, gallery)
    primary = process_rank() == 0
    if is_distributed():
        torch.distributed.destroy_process_group()
    if primary:
        print(f'--result\n{to_json(results)}')
        if args.results_file and results:
            validation.write_results(args.results_file, results, args.results_format)
    if not results:
        raise ValueError('None of these could be validated; the lines above say why.')
    if any(run.get('named_by') for run in failed):  # of a folder or a pattern those that fail are left out
        raise ValueError(f'{len(failed)} of {len(runs)} could not be validated; the lines above say why.')


if __name__ == '__main__':
    console.explain_errors(main)
