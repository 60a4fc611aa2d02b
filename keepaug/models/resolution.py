"""Running a model at a resolution other than the one it was built for, with its own weights."""

import copy
import warnings
from typing import Any

import timm
import torch
from torch import Tensor, nn

from keepaug.functional.saliency import call_with, in_eval_mode, own_parameters, run_detached
from keepaug.models.early_exit import stage_info
from keepaug.models.position_tables import Size, resample

# What models raise when an image is not of the size they are built for, or a copy cannot be resized.
MISFIT = (RuntimeError, AssertionError, ValueError, IndexError, TypeError, AttributeError, NotImplementedError)


def at_resolution(model: nn.Module, size: Size, like: Tensor) -> tuple[nn.Module, Size] | None:
    """A module that runs a model's live weights on images of about a size, or None if there is no such module.

    Models of flexible size are returned as they are. Models of fixed size (ViT, Swin, LeViT, Mixer and their kin) get
    a twin whose position tables are resampled from the live ones at each call; no parameter is touched. Where neither
    is possible at the size itself, as for networks that take multiples of 32 px only, it is rounded down to a multiple
    of the model's reduction.

    Args:
        model: Bare model, or an early classifier.
        size: Images (h, w) to run on.
        like: A batch of the images the model is built for: size, channels, type and device.

    Returns:
        The module and the size (h, w) to run it at.
    """
    multiple = _reduction(model)
    rounded = tuple(edge // multiple * multiple for edge in size)
    candidates = dict.fromkeys((size, rounded) if all(rounded) else (size,))
    for find in (_fitting, _runnable):
        for candidate in candidates:
            runner = find(model, candidate, like)
            if runner is not None:
                return runner, candidate
    return None


def _fitting(model: nn.Module, size: Size, like: Tensor) -> nn.Module | None:
    """The model itself where its size is flexible, else its twin, where one of the two runs."""
    # A model that says its size is fixed may run at another all the same, with tables that are off (MViT's relative
    # positions) or on an image that it enlarges first (CrossViT): only a twin that is the same tells that it fits.
    if not _is_fixed(model) and _runs(model, size, like):
        return model
    try:
        twin = ResizedTwin(model, size, like.shape[-2:])
    except MISFIT:
        return None
    if not twin.is_different and _runs(model, size, like):
        return model
    return twin if _runs(twin, size, like) else None


def _runnable(model: nn.Module, size: Size, like: Tensor) -> nn.Module | None:
    return model if _runs(model, size, like) else None


def _is_fixed(model: nn.Module) -> bool:
    model = timm_model(model)
    fixed = (getattr(model, 'pretrained_cfg', None) or {}).get('fixed_input_size', False)
    return fixed and not getattr(model, 'dynamic_img_size', False)


def _reduction(model: nn.Module) -> int:
    """Pixels of the image, along an edge, to one of the coarsest features; 1 where a model does not tell."""
    return max((entry['reduction'] for entry in stage_info(timm_model(model))), default=1)


def timm_model(model: nn.Module) -> nn.Module:
    """The model itself, or the one that an early classifier stands on."""
    return getattr(model, 'backbone', model)


def _runs(model: nn.Module, size: Size, like: Tensor) -> bool:
    """Whether a forward pass of one empty image succeeds; the model is as before afterwards."""
    x = like.new_zeros(1, like.shape[1], *size)
    try:
        with torch.no_grad(), in_eval_mode(model):
            # Detached, or autocast may keep cast weights without a gradient for the step that follows.
            run_detached(model, x)
    except MISFIT:
        return False
    return True


class ResizedTwin(nn.Module):
    """A model at another input size, on the weights of the original.

    A copy is resized once, for the tables that depend on the size and are not learned (indices, attention masks). Its
    own weights are dropped: each call reads those of the original, and resamples the position tables among them.

    Args:
        model: Model that `resize` can resize.
        size: Images (h, w) to run on.
        built_for: Images (H, W) that the model is built for.
    """

    def __init__(self, model: nn.Module, size: Size, built_for: Size):
        super().__init__()
        self.original = model
        self.sizes = built_for, size
        twin = copy.deepcopy(model)
        resize(timm_model(twin), size, built_for)
        shapes = {name: parameter.shape for name, parameter in own_parameters(twin).items()}
        self.resampled = {
            name: shapes[name] for name, parameter in own_parameters(model).items() if shapes[name] != parameter.shape
        }
        buffers = dict(twin.named_buffers())
        self.kept = {
            name
            for name, buffer in model.named_buffers()
            if name not in buffers or not torch.equal(buffers[name], buffer)
        }
        self.is_different = bool(self.resampled or self.kept)
        _drop_weights(twin)
        # Set past nn.Module: the twin must not appear among this module's parameters and flags.
        object.__setattr__(self, 'twin', twin)

    def forward(self, x: Tensor) -> Tensor:
        # train() drops what eval mode caches of former weights in some models.
        self.twin.train().eval()
        weights = {
            name: self._resample(name, tensor) if name in self.resampled else tensor
            for name, tensor in _tensors(self.original).items()
            if name not in self.kept
        }
        return call_with(self.twin, weights, x)

    def _resample(self, name: str, table: Tensor) -> Tensor:
        owner, _, name_there = name.rpartition('.')
        return resample(name_there, table, self.resampled[name], self.sizes, self.twin.get_submodule(owner))


def resize(model: nn.Module, size: Size, built_for: Size) -> None:
    """Brings a model to another input size; its position tables are undefined afterwards.

    It uses timm's `set_input_size` where the model has it, otherwise what differs between two models of its
    architecture that are built for the two sizes: shapes of parameters, buffers, and plain attributes such as grids and
    window sizes.

    Args:
        model: Bare timm model.
        size: Images (h, w) to come.
        built_for: Images (H, W) that it is built for.

    Raises:
        Exception: One of `MISFIT` where that is not possible.
    """
    if hasattr(model, 'set_input_size'):
        model.set_input_size(img_size=size)
        return
    old, new = (dict(_built_for(model, edges).named_modules()) for edges in (built_for, size))
    if {name: type(module) for name, module in old.items()} != {name: type(module) for name, module in new.items()}:
        raise ValueError(f'{type(model).__name__} has other modules for images of {size} px.')
    for name, module in model.named_modules():
        if name in old:
            _take_over(module, old[name], new[name])


def _built_for(model: nn.Module, size: Size) -> nn.Module:
    """A model of the same architecture for another image size, fresh, on the CPU; no random numbers are used up."""
    with torch.random.fork_rng(devices=[]), torch.device('cpu'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return timm.create_model(model.pretrained_cfg['architecture'], img_size=size)


def _take_over(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Gives a module what differs between two of its kind, its submodules apart."""
    for name, value in vars(old).items():
        if _is_plain(value) and value != getattr(new, name) and getattr(module, name) == value:
            setattr(module, name, getattr(new, name))
    for name, buffer in old.named_buffers(recurse=False, remove_duplicate=False):
        if not torch.equal(buffer, new.get_buffer(name)):
            module._buffers[name] = new.get_buffer(name).to(module.get_buffer(name))
    for name, parameter in old.named_parameters(recurse=False, remove_duplicate=False):
        there = new.get_parameter(name).shape
        if parameter.shape != there:
            live = module.get_parameter(name)
            shape = [
                of_new if of_old != of_new else edge for edge, of_old, of_new in zip(live.shape, parameter.shape, there)
            ]
            module._parameters[name] = nn.Parameter(live.new_empty(shape), requires_grad=live.requires_grad)


def _is_plain(value: Any) -> bool:
    """Numbers, flags and names, also in tuples, lists and dictionaries."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, (int, float, str))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**own_parameters(model), **dict(model.named_buffers())}


def _drop_weights(model: nn.Module) -> None:
    """Replaces parameters by empty ones without storage; shared ones stay shared."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = empty.setdefault(
                    id(parameter), nn.Parameter(torch.empty_like(parameter, device='meta'), requires_grad=False)
                )
