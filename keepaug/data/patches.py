"""Batches of patches, from images of any size and shape (`--naflex-loader`)."""

import contextlib
import inspect
import logging
import sys
from typing import Any

import torch
from timm.data import create_naflex_loader
from torch.utils.data import Dataset, IterableDataset

_logger = logging.getLogger('train')

DEFAULT_PATCH_SIZE = 16


def find_patch_size(model: torch.nn.Module, name: str) -> int | tuple[int, int]:
    """Side of a model's patches, in pixels.

    Raises:
        ValueError: The model reads images only.
    """
    if hasattr(model, 'get_patch_size'):
        return model.get_patch_size()
    if 'patch_coord' not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f'--naflex-loader makes batches of patches, but --model {name} reads images: choose a NaFlex model such '
            'as naflexvit_base_patch16_gap, or a ViT with --model-kwargs use_naflex=True.'
        )
    _logger.warning(f'--model {name} does not say how large its patches are, so {DEFAULT_PATCH_SIZE} px are assumed.')
    return DEFAULT_PATCH_SIZE


def train_patches(args, data_config: dict[str, Any]) -> dict[str, Any]:
    """What training adds to the settings of the patch loader.

    The loader draws batches by a seed of its own, as in stock, whatever `--seed` is.
    """
    choices = args.naflex_patch_sizes
    return dict(
        patch_size=None if choices else data_config['patch_size'],
        patch_size_choices=choices,
        patch_size_choice_probs=args.naflex_patch_size_probs,
        train_seq_lens=tuple(args.naflex_train_seq_lens),
        rank=args.rank,
        world_size=args.world_size,
        **_layout(args, data_config),
    )


def eval_patches(args, data_config: dict[str, Any]) -> dict[str, Any]:
    """What validation adds to the settings of the patch loader: one length, one patch size."""
    return dict(
        patch_size=data_config['patch_size'],
        max_seq_len=args.naflex_max_seq_len,
        **_layout(args, data_config),
    )


def _layout(args, data_config: dict[str, Any]) -> dict[str, Any]:
    return dict(
        channels=data_config['input_size'][0],
        patchify_channels_last=not args.naflex_patchify_channels_first,
    )


def create_patch_loader(dataset: Dataset, **settings):
    """timm's patch loader; what it prints goes to stderr, for stdout is the results' alone.

    Raises:
        ValueError: The data set is iterable.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError('--naflex-loader needs a map-style data set, such as an image folder: drop it.')
    with contextlib.redirect_stdout(sys.stderr):
        return create_naflex_loader(dataset, **settings)
