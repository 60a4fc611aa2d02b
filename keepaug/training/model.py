"""The model of a run, and how images must look to enter it."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from timm.data import resolve_input_data_config
from timm.layers import convert_splitbn_model, convert_sync_batchnorm, set_fast_norm
from timm.models import resolve_model_input_args
from timm.utils import set_jit_fuser

from keepaug.console.errors import first_line
from keepaug.console.processes import is_first_process
from keepaug.data.patches import find_patch_size
from keepaug.files.checkpoints import ARRAYS, check_checkpoint
from keepaug.models.described import check_local
from keepaug.models.loading import one_short_try, tell_refusal, tell_unloaded, watched_loading
from keepaug.models.names import HUB, model_source
from keepaug.models.recorded import check_images
from keepaug.training.forward import Forward

_logger = logging.getLogger('train')


def build_model(args, create_model: Callable[..., torch.nn.Module]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Creates the model the flags describe.

    Args:
        args: Options; `num_classes` is filled from the model where the flag is unset.
        create_model: `timm.create_model`, or what stands for it.

    Returns:
        The model on the CPU and the data configuration (`input_size` (C, H, W), `mean`, `std`, `crop_pct`,
        `interpolation`; with `--naflex-loader`, `patch_size`).

    Raises:
        ValueError: The model cannot be built as asked, or has no number of classes.
    """
    set_kernels(args)
    in_chans = args.in_chans if args.in_chans is not None else (args.input_size[0] if args.input_size else None)
    if in_chans is None and ':' not in args.model:  # a folder or the Hub brings its own
        in_chans = 3
    check_start(args)
    overlay = {}
    if args.pretrained_path:
        # num_classes -1 makes timm re-initialise the head instead of loading the file's.
        overlay = dict(file=args.pretrained_path, num_classes=-1)
    overlay.update(args.pretrained_cfg_overlay)
    model_kwargs = args.model_kwargs
    if args.naflex_loader and args.naflex_patch_sizes:
        # Patches of another side than the model's enter through resampled weights.
        model_kwargs = {'enable_patch_interpolator': True, **model_kwargs}
    pretrained_file = ' '.join(find_pretrained_file(args))
    weights = pretrained_file or (args.initial_checkpoint and f'--initial-checkpoint {args.initial_checkpoint}')
    downloads = args.pretrained and not pretrained_file or model_source(args.model)[0] == HUB

    def build(**weights: Any) -> torch.nn.Module:
        model_args = resolve_model_input_args(
            args.model,
            vars(args),
            in_chans=in_chans,
            num_classes=args.num_classes,
            global_pool=args.gp,
            pretrained_cfg_overlay=overlay or None,
            **model_kwargs,
        )
        return create_model(
            drop_rate=args.drop,
            drop_path_rate=args.drop_path,
            drop_block_rate=args.drop_block,
            bn_momentum=args.bn_momentum,
            bn_eps=args.bn_eps,
            scriptable=args.torchscript,
            pretrained_cfg_overlay=overlay or None,
            **model_args,
            **weights,
        )

    try:
        source = check_local(args.model, '--model', build)
        with one_short_try(downloads), watched_loading() as loaded:
            model = build(pretrained=args.pretrained, checkpoint_path=args.initial_checkpoint)
    except OSError as error:  # what a failing download is, too
        raise ValueError(
            f'The weights of --model {args.model} cannot be loaded ({tell_unloaded(error)}): give a file with '
            '--pretrained-path, or drop --pretrained to start from random weights.'
        ) from error
    except (RuntimeError, TypeError, AssertionError, KeyError, AttributeError, SafetensorError) as error:
        what = f'--model {args.model}' + (f' with {weights}' if weights else '')
        raise ValueError(f'{what} cannot be built as asked: {tell_refusal(error, args)}.') from error
    if pretrained_file:
        loaded.check(model, weights, f'--model {args.model}')
    try:
        _adjust_head(model, args.head_init_scale, args.head_init_bias)
        if args.grad_checkpointing:
            model.set_grad_checkpointing(enable=True)
    except (AttributeError, AssertionError, TypeError) as error:
        raise ValueError(
            f'--model {args.model} takes no --head-init-scale, --head-init-bias or --grad-checkpointing: '
            f'{first_line(error)}.'
        ) from error
    if args.num_classes is None:
        if not hasattr(model, 'num_classes'):
            raise ValueError(f'--model {args.model} does not say how many classes it has: give --num-classes.')
        args.num_classes = model.num_classes
    if args.rank == 0:
        _logger.info(f'Model {args.model} created, param count: {sum(p.numel() for p in model.parameters())}')
    data_config = resolve_input_data_config(model, args=vars(args), verbose=args.rank == 0)
    if source:
        check_images(data_config, source)
    if args.naflex_loader:
        data_config['patch_size'] = find_patch_size(model, args.model)
    return model, data_config


def check_start(args) -> None:
    """Looks at the files of weights that a model starts from.

    Raises:
        ValueError: One cannot be read, or its weights cannot be used.
    """
    if args.initial_checkpoint:
        check_checkpoint(args.initial_checkpoint, '--initial-checkpoint', averaged=True, arrays=True)
    if args.pretrained_path and not args.pretrained and is_first_process():
        _logger.warning(
            f'--pretrained-path {args.pretrained_path} has no effect without --pretrained, as in stock: the model does '
            'not start from it.'
        )
    flag, path = find_pretrained_file(args) or ('', '')
    if path:
        if path.endswith(ARRAYS) and not args.pretrained_cfg_overlay.get('custom_load'):
            raise ValueError(
                f'{flag} {path} holds NumPy arrays: add --pretrained-cfg-overlay custom_load=True, or give it as '
                '--initial-checkpoint.'
            )
        check_checkpoint(path, flag, averaged=True, arrays=True)


def find_pretrained_file(args) -> tuple[str, str] | tuple[()]:
    """The flag that names a file of pretrained weights to start from, and the file; nothing where none does."""
    path = args.pretrained_cfg_overlay.get('file') or args.pretrained_path
    if not (args.pretrained and path):
        return ()
    return ('--pretrained-path' if path == args.pretrained_path else '--pretrained-cfg-overlay file'), str(path)


def set_kernels(args) -> None:
    """Process-wide choices of kernels: the scripting fuser and fast norm layers (`--fuser`, `--fast-norm`).

    Raises:
        ValueError: The fuser is unknown.
    """
    if args.fuser:
        try:
            set_jit_fuser(args.fuser)
        except AssertionError as error:
            raise ValueError(f'--fuser {args.fuser} is unknown: choose te, old or nvfuser.') from error
    if args.fast_norm:
        set_fast_norm()


def place_model(model: torch.nn.Module, args, forward: Forward) -> torch.nn.Module:
    """Moves the model to its device, format and memory layout, and converts its batch norm where asked.

    Clears `args.dist_bn` under `--sync-bn`: synchronised statistics need no distribution after the epoch.

    Raises:
        ValueError: Batch norm is to be synchronised on the CPU, or the model cannot be scripted.
    """
    if args.split_bn:
        model = convert_splitbn_model(model, max(args.aug_splits, 2))
    forward.place_model(model)
    if args.distributed and args.sync_bn:
        if forward.device.type == 'cpu':
            raise ValueError(
                "--sync-bn works on GPUs only, as torch's synchronised batch norm does: drop it on the CPU."
            )
        args.dist_bn = ''
        model = convert_sync_batchnorm(model)
        if args.rank == 0:
            _logger.info('Converted model to use Synchronized BatchNorm.')
    if args.torchscript:
        model = script(model, args.model)
    return model


def script(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The model scripted by torch.jit (`--torchscript`).

    Raises:
        ValueError: It is written in a way that cannot be scripted.
    """
    try:
        return torch.jit.script(model)
    except (torch.jit.frontend.FrontendError, RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(f'--model {name} cannot be scripted ({first_line(error)}): drop --torchscript.') from error


def _adjust_head(model: torch.nn.Module, scale: float | None, bias: float | None) -> None:
    """Scales the classifier's initial weights, then sets its bias (`--head-init-scale`, `--head-init-bias`)."""
    if scale is None and bias is None:
        return
    head = model.get_classifier()
    with torch.no_grad():
        if scale is not None:
            head.weight.mul_(scale)
            head.bias.mul_(scale)
        if bias is not None:
            head.bias.fill_(bias)
