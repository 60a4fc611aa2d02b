"""Weights & Biases as a sink of the record."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

_logger = logging.getLogger('train')


class WeightsAndBiases:
    """Logs each epoch to the open run, at once, so that it is one step."""

    def write(
        self,
        row: Mapping[str, Any],
        scalars: Mapping[str, float],
        pictures: Mapping[str, np.ndarray],
    ) -> None:
        import wandb

        shown = {name: wandb.Image(picture) for name, picture in pictures.items()}
        wandb.log({**row, **scalars, **shown})


def open_wandb(args, output_dir: str) -> list[WeightsAndBiases]:
    """Starts the run that `--log-wandb` asks for; an empty list without the flag or, with a warning, the package.

    With `--resume auto` and nothing to resume yet, the run begins under the id by which it will be continued.
    """
    if not args.log_wandb:
        return []
    try:
        import wandb
    except ImportError:
        _logger.warning('--log-wandb is set, but wandb is not installed: pip install wandb to log there.')
        return []
    wandb.init(
        project=args.wandb_project,
        name=os.path.basename(output_dir),
        config={name: value for name, value in vars(args).items() if name != 'class_to_idx'},  # thousands of entries
        tags=args.wandb_tags,
        resume='must' if args.wandb_resume_id and args.resume else None,
        id=args.wandb_resume_id or None,
    )
    return [WeightsAndBiases()]
