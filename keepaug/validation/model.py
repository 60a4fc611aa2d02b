"""The model that a validation judges."""

import logging
import os
import re
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any

import torch
from safetensors import SafetensorError
from timm.data import resolve_input_data_config
from timm.layers import apply_test_time_pool
from timm.models import load_checkpoint, reparameterize_model, resolve_model_input_args

from keepaug.console.errors import first_line
from keepaug.files.checkpoints import AVERAGED, check_checkpoint
from keepaug.models.described import check_local, describe, described_channels, described_size
from keepaug.models.loading import one_short_try, tell_refusal, tell_unloaded
from keepaug.models.names import HUB, model_source
from keepaug.models.recorded import check_images, check_recorded, statistics_problem
from keepaug.training.early_exit_task import load_early_exit
from keepaug.training.forward import Forward
from keepaug.training.model import script, set_kernels
from keepaug.training.task import check_backend
from keepaug.validation.runs import is_typed

_logger = logging.getLogger('validate')

# How torch tells a weight of another shape: the first length, and the others, of either.
MISMATCH = re.compile(r'shape torch\.Size\(\[(\d+)(.*?)\]\) from .* current model is torch\.Size\(\[(\d+)(.*?)\]\)')


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
    held, flag, told = {}, args.named_by or '--checkpoint', {}
    if args.checkpoint:
        held = check_checkpoint(args.checkpoint, flag, averaged=args.use_ema, arrays=True)
        told = describe(held, args.checkpoint, flag)
        if args.use_ema and all(held.get(key) is None for key in AVERAGED):
            # timm would take the plain weights without a word.
            raise ValueError(
                f'--use-ema finds no average in {flag} {args.checkpoint}: drop it, or train with --model-ema.'
            )

    def build(pretrained: bool = False, scriptable: bool = False) -> torch.nn.Module:
        model_args = resolve_model_input_args(
            args.model,
            vars(args),
            in_chans=in_chans,
            num_classes=args.num_classes,
            global_pool=args.gp,
            **args.model_kwargs,
        )
        return create_model(pretrained=pretrained, scriptable=scriptable, **model_args)

    reads_checkpoint = False
    try:
        source = check_local(args.model, args.named_by or '--model', build)
        if args.described and not source:
            source = args.described['source']
            check_recorded(build, args.described['model_kwargs'], os.path.getsize(args.checkpoint), source)
        with one_short_try(args.pretrained):
            model = build(args.pretrained, args.torchscript)
        if args.checkpoint:
            reads_checkpoint = True
            load_checkpoint(model, args.checkpoint, args.use_ema)
    except OSError as error:  # what a failing download is, too
        if reads_checkpoint:
            raise ValueError(
                f'{flag} {args.checkpoint} cannot be read ({first_line(error)}): give a file that can.'
            ) from error
        reason = tell_unloaded(error)
        way_out = 'drop --pretrained' if args.checkpoint else 'give a file with --checkpoint'
        if model_source(args.model)[0] == HUB:  # where even the architecture is told
            way_out = 'name its architecture with --model, such as resnet18, and give a file with --checkpoint'
        raise ValueError(f'The weights of --model {args.model} cannot be loaded ({reason}): {way_out}.') from error
    except (
        RuntimeError,
        TypeError,
        AssertionError,
        KeyError,
        AttributeError,
        SafetensorError,
        JSONDecodeError,
    ) as error:
        what = f'{flag} {args.checkpoint} in --model {args.model}' if args.checkpoint else f'--model {args.model}'
        unknown = args.checkpoint and not told.get('model') and not is_typed(args, 'model')
        hint = f'; {args.model} is the default, since the file does not name its model: give --model' if unknown else ''
        raise ValueError(f'{what} cannot be loaded: {_explain_mismatch(error, args)}{hint}.') from error
    if args.num_classes is None:
        if not hasattr(model, 'num_classes'):
            raise ValueError(f'--model {args.model} does not say how many classes it has: give --num-classes.')
        args.num_classes = model.num_classes
    if args.reparam:
        model = reparameterize_model(model)
    try:
        data_config = resolve_input_data_config(
            model, args=vars(args), use_test_size=not args.use_train_size, verbose=True
        )
    except AssertionError as error:
        channels = in_chans or model.pretrained_cfg['input_size'][0]
        raise ValueError(
            statistics_problem(vars(args), channels)
            or f'--model {args.model} cannot read such images: {first_line(error)}.'
        ) from error
    if source:
        check_images(data_config, source)
    _compare_images(told, data_config, args.checkpoint)
    pooled = False
    if args.test_pool:
        model, pooled = apply_test_time_pool(model, data_config)
    if args.early_exit:
        try:
            model = load_early_exit(model, held, f'{flag} {args.checkpoint}', args.use_ema).early_classifier()
        except ValueError as error:
            raise ValueError(f'--early-exit and {args.checkpoint or args.model} do not go together: {error}') from error
    return model, data_config, pooled


def _explain_mismatch(error: Exception, args) -> str:
    """What an error says of weights that cannot be loaded, with the way out where they are of another class count."""
    found = MISMATCH.findall(str(error))
    # The weight and the bias of the last layer, and nothing else.
    counts = {(theirs, ours) for theirs, _, ours, _ in found}
    if len(counts) != 1 or any(theirs != ours for _, theirs, _, ours in found) or 'Missing key' in str(error):
        return tell_refusal(error, args)
    ((theirs, ours),) = counts
    return (
        f'it has {theirs} classes, not {ours}; give --num-classes {theirs}, and validate checkpoints with '
        'different numbers of classes separately'
    )


def _compare_images(told: dict[str, Any], data_config: dict[str, Any], path: str) -> None:
    """Says where a run prepared its images otherwise than they are for the validation; stock's script does not look."""
    size = described_size(told)
    if size is not None:
        told = {**told, 'input_size': (described_channels(told) or data_config['input_size'][0], *size)}
    for name in ('input_size', 'mean', 'std', 'crop_pct', 'interpolation'):
        run, here = (_as_tuple(images.get(name)) for images in (told, data_config))
        # One number stands for every channel.
        if run is None or run == here or (isinstance(run, tuple) and len(run) == 1 and run * len(here) == here):
            continue
        values = ' '.join(map(str, run)) if isinstance(run, tuple) else run
        if name == 'input_size':
            _logger.warning(
                f'{path} was trained on images of {run} and is validated on {here}; give --input-size {values} for '
                'the size of the run.'
            )
        else:
            flag = '--' + name.replace('_', '-')
            _logger.warning(
                f'{path} was trained with {flag} {values} and is validated with {name} {here}; give {flag} {values} '
                'for that of the run.'
            )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def compile_model(args, model: torch.nn.Module) -> Any:
    """The model scripted, compiled or traced ahead of time, as the flags ask."""
    if args.torchscript:
        return script(model, args.model)
    if args.torchcompile:
        check_backend(args.torchcompile)
        torch.compiler.reset()
        return torch.compile(model, backend=args.torchcompile, mode=args.torchcompile_mode)
    if args.aot_autograd:
        from functorch.compile import memory_efficient_fusion

        return memory_efficient_fusion(model)
    return model


@torch.no_grad()  # not in inference mode, as in `validate`
def warm_up(model: torch.nn.Module, args, data_config: dict, forward: Forward) -> None:
    """One forward pass of a full random batch, so that compiling and algorithm choice do not count as a batch's time.

    A batch that does not fit into memory fails here, before any image is read.
    """
    model.eval()
    forward(model, torch.randn(args.batch_size, *data_config['input_size'], device=forward.device, dtype=forward.dtype))
