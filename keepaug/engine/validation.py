"""The parts of a validation: the model, one pass over the data, the file of results."""
import copy
import csv
import importlib.util
import json
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from json import JSONDecodeError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.data import RealLabelsImagenet, create_loader, create_naflex_loader, resolve_input_data_config
from timm.layers import apply_test_time_pool
from timm.models import load_checkpoint, reparameterize_model, resolve_model_input_args
from timm.task.evaluator import (
    ClassificationEvaluator,
    MultiLabelClassificationEvaluator,
    evaluation_sample_limit,
)
from timm.utils import AverageMeter, check_batch_size_retry, decay_batch_step, is_distributed_env
from torch.utils.data import Dataset

from keepaug.engine.checkpoint import AVERAGED, check_checkpoint
from keepaug.engine.data import build_dataset
from keepaug.engine.device import Precision, open_device
from keepaug.engine.early_exit import load_early_exit
from keepaug.engine.interrupt import raise_lost_interrupt
from keepaug.engine.loop import describe_metrics, move
from keepaug.engine.model import script, set_kernels
from keepaug.engine.progress import Progress
from keepaug.engine.sentence import first_line

_logger = logging.getLogger('validate')

# Scores that are reported with their complement, the error.
ACCURACIES = ('top1', 'top5')


def load_model(args, create_model: Callable[..., torch.nn.Module]) -> tuple[torch.nn.Module, dict[str, Any], bool]:
    """The model to judge, with the checkpoint's weights, on the CPU; under `--early-exit` its first layers and head.

    Returns:
        Model, data configuration, and whether test-time pooling replaced its head.

    Raises:
        ValueError: The model is unknown, or the checkpoint is unreadable or of another model.
    """
    set_kernels(args)
    in_chans = args.in_chans if args.in_chans is not None else (args.input_size[0] if args.input_size else None)
    if in_chans is None and ':' not in args.model:  # a folder or the Hub brings its own
        in_chans = 3
    held, flag = {}, getattr(args, 'named_by', '') or '--checkpoint'
    if args.checkpoint:
        held = check_checkpoint(args.checkpoint, flag)
        if args.use_ema and all(held.get(key) is None for key in AVERAGED):
            # timm would take the plain weights without a word.
            raise ValueError(
                f'--use-ema finds no average in {flag} {args.checkpoint}: drop it, or train with --model-ema.')
    try:
        model_args = resolve_model_input_args(
            args.model, vars(args), in_chans=in_chans, num_classes=args.num_classes, global_pool=args.gp,
            **args.model_kwargs)
        model = create_model(pretrained=args.pretrained, scriptable=args.torchscript, **model_args)
        if args.checkpoint:
            load_checkpoint(model, args.checkpoint, args.use_ema)
    except (RuntimeError, TypeError, AssertionError, KeyError, SafetensorError, JSONDecodeError) as error:
        what = f'{flag} {args.checkpoint} in --model {args.model}' if args.checkpoint else f'--model {args.model}'
        raise ValueError(f'{what} cannot be loaded: {_explain_mismatch(error)}.') from error
    if args.num_classes is None:
        if not hasattr(model, 'num_classes'):
            raise ValueError(f'--model {args.model} does not say how many classes it has; give --num-classes.')
        args.num_classes = model.num_classes
    if args.reparam:
        model = reparameterize_model(model)
    data_config = resolve_input_data_config(
        model, args=vars(args), use_test_size=not args.use_train_size, verbose=True)
    if args.checkpoint.endswith('.safetensors'):
        _compare_size(args.checkpoint, data_config)
    pooled = False
    if args.test_pool:
        model, pooled = apply_test_time_pool(model, data_config)
    if getattr(args, 'early_exit', False):  # stock's parser does not have it
        try:
            model = load_early_exit(model, held, args.use_ema).early_classifier()
        except ValueError as error:
            raise ValueError(f'--early-exit and {args.checkpoint or args.model} do not go together: {error}') from error
    return model, data_config, pooled


# How torch tells a weight of another shape: the first length, and the others, of either.
MISMATCH = re.compile(r'shape torch\.Size\(\[(\d+)(.*?)\]\) from .* current model is torch\.Size\(\[(\d+)(.*?)\]\)')


def _explain_mismatch(error: Exception) -> str:
    """What an error says of weights that cannot be loaded, with the way out where they are of another class count."""
    found = MISMATCH.findall(str(error))
    # The weight and the bias of the last layer, and nothing else.
    counts = {(theirs, ours) for theirs, _, ours, _ in found}
    if len(counts) != 1 or any(theirs != ours for _, theirs, _, ours in found) or 'Missing key' in str(error):
        return first_line(error)
    (theirs, ours), = counts
    return f'it has {theirs} classes and not {ours}; give --num-classes {theirs}, and checkpoints of one count together'


def _compare_size(path: str, data_config: dict[str, Any]) -> None:
    """Says where an exported file was trained at another size than it is judged at; stock's script does not look."""
    with safe_open(path, framework='pt') as file:
        size = json.loads((file.metadata() or {}).get('input_size', 'null'))
    if size and tuple(size) != tuple(data_config['input_size']):
        _logger.warning(
            f'{path} is of a run on images {tuple(size)} and is judged on {tuple(data_config["input_size"])}; '
            f'give --input-size {" ".join(map(str, size))} for those of the run.')


def compile_model(args, model: torch.nn.Module) -> torch.nn.Module:
    """The model scripted, compiled or traced ahead of time, as the flags ask."""
    if args.torchscript:
        return script(model, args.model)
    if args.torchcompile:
        torch._dynamo.reset()
        return torch.compile(model, backend=args.torchcompile, mode=args.torchcompile_mode)
    if args.aot_autograd:
        from functorch.compile import memory_efficient_fusion
        return memory_efficient_fusion(model)
    return model


def warm_up(model: torch.nn.Module, args, data_config: dict, device: torch.device, precision: Precision) -> None:
    """One forward pass of a full random batch, so that compiling and algorithm choice do not count as a batch's time.

    A batch that does not fit into memory fails here, before any image is read. Not in inference mode: what a model
    keeps of a pass, such as LeViT its attention's bias, could not stand in a gradient that is asked of it later.
    """
    model.eval()
    x = torch.randn(args.batch_size, *data_config['input_size'], device=device, dtype=precision.dtype)
    if args.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), precision.autocast():
        model(x)


def check_averaging(args) -> None:
    """Switches `--metrics-avg` off, with a warning, where scikit-learn is missing."""
    if args.metrics_avg and importlib.util.find_spec('sklearn') is None:
        _logger.warning('--metrics-avg needs scikit-learn, which is not installed; it is left out.')
        args.metrics_avg = None


def build_validation_set(args, data_config: dict) -> tuple[Dataset, RealLabelsImagenet | None]:
    """The validation images and, with `--real-labels`, the judge that knows ImageNet's reassessed labels.

    Raises:
        ValueError: The images or the labels cannot be used.
    """
    dataset = build_split(args, args.split, data_config)
    if not args.real_labels:
        return dataset, None
    try:
        return dataset, RealLabelsImagenet(dataset.filenames(basename=True), real_json=args.real_labels)
    except (OSError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f'--real-labels {args.real_labels} must be the JSON file of reassessed labels, and the data ImageNet\'s '
            f'validation images ({first_line(error)}).') from error


def build_split(args, split: str, data_config: dict) -> Dataset:
    """The images of a split."""
    return build_dataset(
        args,
        split,
        root=args.data or args.data_dir,  # here the positional path wins, in training --data-dir does
        channels=data_config['input_size'][0],
        num_samples=args.num_samples,
        load_bytes=args.tf_preprocessing,
    )


def build_loader(args, dataset: Dataset, model: torch.nn.Module, data_config: dict, device: torch.device,
                 dtype: torch.dtype, pooled: bool):
    """Batches of a data set in order, resized and cropped for evaluation; in several processes each has its share."""
    common = dict(
        batch_size=args.batch_size,
        interpolation=data_config['interpolation'],
        mean=data_config['mean'],
        std=data_config['std'],
        crop_pct=1. if pooled else data_config['crop_pct'],
        crop_mode=data_config['crop_mode'],
        crop_border_pixels=args.crop_border_pixels,
        num_workers=args.workers,
        distributed=world_size() > 1,
        pin_memory=args.pin_mem,
        device=device,
        img_dtype=dtype,
        use_prefetcher=not args.no_prefetcher,
    )
    if args.naflex_loader:
        patch_size = getattr(getattr(model, 'embeds', None), 'patch_size', None) or 16
        return create_naflex_loader(
            dataset, patch_size=patch_size, max_seq_len=args.naflex_max_seq_len, is_training=False,
            channels=data_config['input_size'][0], **common)
    return create_loader(
        dataset, input_size=data_config['input_size'], tf_preprocessing=args.tf_preprocessing, **common)


def world_size() -> int:
    """Processes that share the images; one unless a launcher started more."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def join_processes(args) -> None:
    """Joins the processes that a launcher such as torchrun started, each with a device of its own, if it did.

    Raises:
        ValueError: What is asked for needs all images in one process.
    """
    if not is_distributed_env():
        return
    whole = [flag for flag, asked in (
        ('--real-labels', args.real_labels),
        ('--metrics-avg', args.metrics_avg),
        ('--naflex-loader', args.naflex_loader),
    ) if asked]
    if whole:
        raise ValueError(f'{whole[0]} needs all images in one process: drop it, or start one process.')
    if args.retry:
        raise ValueError(
            '--retry would start over in the process that lacks memory alone: give a smaller --batch-size, or start '
            'one process.')
    open_device(args)
    if args.rank:
        _logger.setLevel(logging.WARNING)  # what all do is said once


def read_valid_labels(path: str, num_classes: int) -> list[int] | None:
    """Class numbers of a file with one per line, or None without a file: only these logits are compared.

    Raises:
        ValueError: The file does not hold class numbers of the model.
    """
    if not path:
        return None
    try:
        with open(path) as file:
            labels = [int(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f'--valid-labels {path} must hold one class number per line ({first_line(error)}).') from error
    if not labels or not 0 <= min(labels) <= max(labels) < num_classes:
        raise ValueError(f'--valid-labels {path} must hold class numbers from 0 to {num_classes - 1}, one per line.')
    return labels


@torch.no_grad()  # as `warm_up`
def measure(
        model: torch.nn.Module,
        loader,
        device: torch.device,
        dtype: torch.dtype,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        *,
        prefetched: bool = True,
        channels_last: bool = False,
        valid_labels: list[int] | None = None,
        real_labels: RealLabelsImagenet | None = None,
        average: str | None = None,
        log_interval: int = 10,
        observe: Callable[[torch.Tensor, torch.Tensor], None] | None = None,
        evaluator: ClassificationEvaluator | None = None,
        progress: Progress | None = None,
) -> OrderedDict[str, float]:
    """One pass over the data.

    Args:
        model: Model on its device.
        loader: Batches.
        device: Device.
        dtype: Type of images.
        autocast: Makes the context of a forward pass.
        prefetched: Whether batches are on the device already.
        channels_last: Memory layout of images.
        valid_labels: Columns of the logits to compare; targets must index them already.
        real_labels: Judge whose top-1 and top-5 replace the plain ones.
        average: 'micro', 'macro' or 'weighted' for precision, recall and F1; None for none.
        log_interval: Batches between log lines.
        observe: Is given the logits and targets of each batch.
        evaluator: What measures; unset: that of one label per image.
        progress: What follows the pass.

    Returns:
        What the evaluator reports, `loss`, `top1`, `top5`, and, with `average`, `<average>_precision`, `_recall`,
        `_f1_score`; all but the loss in percent.
    """
    model.eval()
    evaluator = evaluator or ClassificationEvaluator(device=device)
    # A distributed sampler repeats images so that all processes have as many; the repeated ones come last.
    left = evaluation_sample_limit(loader)
    of_batch = copy.deepcopy(evaluator)
    predicted, wanted = [], []
    batch_time, start = AverageMeter(), time.time()
    progress = progress or Progress()
    with progress.validating(len(loader)):
        for batch_idx, (input, target) in enumerate(loader):
            raise_lost_interrupt()
            if not prefetched:
                input, target = move(input, device, dtype), target.to(device)
            if channels_last and isinstance(input, torch.Tensor):
                input = input.contiguous(memory_format=torch.channels_last)
            with autocast():
                output = model(input)
                if isinstance(output, (tuple, list)):
                    output = output[0]
                if valid_labels is not None:
                    output = output[:, valid_labels]
            if left is not None:
                output, target = output[:left], target[:left]
                left -= len(target)
                if not len(target):
                    continue
            if real_labels is not None:
                real_labels.add_result(output)
            try:
                evaluator.update(output, target)
            except IndexError as error:
                raise ValueError(
                    f'The data has labels beyond the {output.shape[1]} classes that are compared: give --valid-labels '
                    'as many classes as the data has, which must count them in that order.') from error
            if observe is not None:
                observe(output, target)
            if average:
                predicted.append(output.argmax(1).cpu())
                wanted.append(target.cpu())
            progress.advance(len(target) * world_size())
            batch_time.update(time.time() - start, n=len(target))
            start = time.time()
            if batch_idx % log_interval == 0:
                _logger.info(
                    f'Test: [{batch_idx:>4d}/{len(loader)}]  '
                    f'Time: {batch_time.val:.3f}s ({batch_time.avg:.3f}s, {len(target) / batch_time.avg:>7.2f}/s)  '
                    + describe_metrics(of_batch, evaluator, output, target))
    metrics = evaluator.compute(distributed=world_size() > 1)
    if real_labels is not None:
        metrics.update(top1=real_labels.get_accuracy(k=1), top5=real_labels.get_accuracy(k=5))
    if average:
        metrics.update(_averaged_scores(torch.cat(wanted), torch.cat(predicted), average))
    return metrics


def _averaged_scores(target: torch.Tensor, predicted: torch.Tensor, average: str) -> dict[str, float]:
    """Precision, recall and F1 over classes, in percent (`--metrics-avg`)."""
    from sklearn.metrics import precision_recall_fscore_support
    scores = precision_recall_fscore_support(target.numpy(), predicted.numpy(), average=average, zero_division=0)
    names = ('precision', 'recall', 'f1_score')
    return {f'{average}_{name}': 100. * float(score) for name, score in zip(names, scores)}


def build_evaluator(args, device: torch.device) -> ClassificationEvaluator:
    """What measures the task: top-1 and top-5 of one label per image, mean average precision and F1 of several."""
    if getattr(args, 'task', None) == 'multilabel':  # stock's parser does not have it
        return MultiLabelClassificationEvaluator(device, threshold=args.multilabel_threshold)
    return ClassificationEvaluator(device)


def headline(metrics: OrderedDict[str, float]) -> str:
    """Scores in percent as one line, accuracies with their errors."""
    return ' '.join(
        f'Acc@{name[3:]} {value:.3f} ({100 - value:.3f})' if name in ACCURACIES else f'{name} {value:.3f}'
        for name, value in metrics.items())


def rounded(metrics: OrderedDict[str, float]) -> OrderedDict[str, float]:
    """Scores in percent at four decimals, each accuracy followed by its error."""
    results = OrderedDict()
    for name, value in metrics.items():
        results[name] = round(value, 4)
        if name in ACCURACIES:
            results[f'{name}_err'] = round(100 - value, 4)
    return results


def retry_smaller(run: Callable[[int], OrderedDict], batch_size: int, model: str, retry: bool) -> OrderedDict:
    """Runs with a batch size and, while that fails for want of memory, with smaller ones.

    Args:
        run: Takes a batch size, gives results.
        batch_size: The first to try.
        model: Name for the result of a run that never succeeded.
        retry: Whether to try again at all.

    Returns:
        The results, or `model` and `error`.
    """
    while True:
        try:
            return run(batch_size)
        except RuntimeError as error:
            if not retry:
                raise
            text = str(error)
            torch.cuda.empty_cache()
            batch_size = decay_batch_step(batch_size) if check_batch_size_retry(text) else 0
            if not batch_size:
                _logger.error(f'{model} failed: {first_line(error)}')
                return OrderedDict(model=model, error=text)
            _logger.warning(f'Reducing batch size to {batch_size} for retry.')


def check_results_file(path: str) -> None:
    """Says before a validation that its results could not be written after it.

    Raises:
        ValueError: The folder of `--results-file` does not exist, or may not be written.
    """
    folder = os.path.dirname(path) or '.'
    if path and not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        raise ValueError(f'--results-file {path} cannot be written: name a file in a folder that exists.')


def write_results(path: str, results: list[dict] | dict, file_format: str = 'csv') -> None:
    """Writes results to a file, as csv with the columns of all rows or as json.

    Raises:
        ValueError: The file cannot be written.
    """
    try:
        with open(path, 'w', newline='') as file:
            if file_format == 'json':
                json.dump(results, file, indent=4)
                return
            rows = results if isinstance(results, list) else [results]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            if columns:
                writer = csv.DictWriter(file, fieldnames=columns)
                writer.writeheader()
                writer.writerows(rows)
    except OSError as error:
        raise ValueError(f'--results-file {path} cannot be written ({error.strerror}); choose another.') from error
