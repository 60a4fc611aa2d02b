"""Which images a run will see."""

from collections.abc import Iterator

import torch
from timm.data import resolve_input_data_config


def image_shapes(args, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """An empty image of every size the run will train on a bare model."""
    channels, *size = resolve_input_data_config(model, args=vars(args))['input_size']
    like = next(model.parameters())
    for shape in [(edge, edge) for edge in args.train_img_sizes or ()] or [size]:
        yield like.new_zeros(1, channels, *shape)
