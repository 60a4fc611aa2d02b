"""Mixing the features of a batch inside any backbone, at the output of one of its stages.

A stage is a module that timm's `feature_info` names. Forward hooks replace the output of these modules with the mixed
features; nothing is added to the model's modules, parameters, buffers or state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keepaug.functional import boxes_to_mask
from keepaug.functional.mixing import blend
from keepaug.functional.saliency import in_eval_mode, run_detached
from keepaug.models.early_exit import stage_info
from keepaug.models.hooks import hook_forward, remove
from keepaug.models.resolution import MISFIT

Size = tuple[int, ...]  # (h, w), as a shape has it


@dataclass(frozen=True)
class Layout:
    """How a stage lays out its output.

    Attributes:
        to_map: Output and map size (h, w) to the feature map (B, C, h, w).
        from_weights: Weights (B, 1, h, w) of the cells, those (B,) of what stands for the whole image, and the output,
            to weights that multiply the output.
    """

    to_map: Callable[[Tensor, Size], Tensor]
    from_weights: Callable[[Tensor, Tensor, Tensor], Tensor]


def _token_weights(cells: Tensor, whole: Tensor, output: Tensor) -> Tensor:
    """Class tokens and the like, in front of those of the grid, have seen the whole image and follow the label."""
    cells = cells.flatten(2).mT
    prefix = output.shape[1] - cells.shape[1]
    return torch.cat([whole[:, None, None].expand(-1, prefix, 1).to(cells), cells], dim=1)


LAYOUTS = {
    'NCHW': Layout(lambda output, size: output, lambda cells, whole, output: cells),
    'NHWC': Layout(lambda output, size: output.movedim(-1, 1), lambda cells, whole, output: cells.movedim(1, -1)),
    'tokens': Layout(
        lambda output, size: output[:, output.shape[1] - size[0] * size[1] :].mT.unflatten(-1, size), _token_weights
    ),
}


@dataclass(frozen=True)
class Stage:
    """A module at whose output features can be mixed.

    Attributes:
        module: Its name in the model.
        layout: A key of `LAYOUTS`.
        size: (h, w) of its feature map for the images it was looked up for.
    """

    module: str
    layout: str
    size: Size


@dataclass  # not frozen: torch 2.6 compiles anew for every value in a frozen one
class Plan:
    """How one batch is mixed.

    Attributes:
        stage: Number of the stage, from 1; 0 for none.
        chosen: bool (stages,), True for that stage: the same for a compiled model, which has one graph for all.
        partner: int64 (B,): who is mixed into each sample.
        lam: (B,) weight of the own label.
        outside: (B,) weight of the own features outside the box.
        boxes: int64 (B, 4) XYXY in cells of the stage's map, where the partner's features stand; may be empty.
    """

    stage: int
    chosen: Tensor
    partner: Tensor
    lam: Tensor
    outside: Tensor
    boxes: Tensor


@dataclass
class _State:
    """What the hooks look at: the plan, and the stages for the images of the batch at hand."""

    plan: Plan | None = None
    stages: Sequence[Stage | None] = ()


class StageMixing:
    """Mixes features in the training-mode forward passes of a model, as `plan` says.

    The plan stays until the next one: with gradient checkpointing, stages run again during the backward pass.

    Args:
        model: Bare model, not compiled yet. Its hooks are removed with this object.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._state = _State()
        self._known: dict[Size, list[Stage | None]] = {}

    def stages(self, like: Tensor) -> list[Stage | None]:
        """The stages for images of this size, in order; None for one at which features cannot be mixed.

        The first call for a size runs the model forward once, the very first puts the hooks in place.

        Args:
            like: Any batch of such images, for size, channels, type and device.

        Raises:
            ValueError: There is no stage at which features can be mixed.
        """
        size = like.shape[-2:]
        if size not in self._known:
            stages = find_stages(self.model, like)
            if not self._known:
                hooks = [
                    (self.model.get_submodule(stage.module), _hook(self._state, index))
                    for index, stage in enumerate(stages)
                    if stage is not None
                ]
                hook_forward(self, hooks)
            self._known[size] = stages
        return self._known[size]

    def set_plan(self, plan: Plan, like: Tensor) -> None:
        """Sets what to do with the next batch, of images such as `like`."""
        self._state.plan, self._state.stages = plan, self.stages(like)

    def clear_plan(self) -> None:
        """Leaves the features of the next batch alone."""
        self._state.plan = None


def _hook(state: _State, index: int) -> Callable[..., Tensor | None]:
    def mix(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        plan = state.plan
        if plan is None or not module.training:
            return None
        stage = state.stages[index]
        if stage is None:  # for images of this size, unlike those that the hooks were put in place for
            return None
        if torch.compiler.is_compiling():
            chosen = plan.chosen[index]
            return mix_features(
                output,
                stage,
                plan.partner,
                lam=torch.where(chosen, plan.lam, 1.0),
                outside=torch.where(chosen, plan.outside, 1.0),
                boxes=torch.where(chosen, plan.boxes, 0),
            )
        if plan.stage != index + 1:
            return None
        return mix_features(output, stage, plan.partner, plan.lam, plan.outside, plan.boxes)

    return mix


def mix_features(output: Tensor, stage: Stage, partner: Tensor, lam: Tensor, outside: Tensor, boxes: Tensor) -> Tensor:
    """Mixes the output of a stage.

    Args:
        output: The stage's output, of B samples, or of several blocks of B samples that are mixed alike.
        stage: Its layout and size.
        partner: int64 (B,).
        lam: (B,) weight of the own label, for tokens that stand for the whole image.
        outside: (B,) weight of the own features outside the box.
        boxes: int64 (B, 4) XYXY in cells, where the partner's features stand.

    Returns:
        A tensor such as `output`.
    """
    batch, copies = len(partner), len(output) // len(partner)
    cells = torch.where(boxes_to_mask(boxes, stage.size), 0.0, outside[:, None, None, None]).float()
    weights = LAYOUTS[stage.layout].from_weights(cells, lam, output)
    if copies > 1:
        weights = weights.repeat(copies, *[1] * (weights.ndim - 1))
        first = torch.arange(0, len(output), batch, device=partner.device)
        partner = (first[:, None] + partner).flatten()
    return blend(output, partner, weights)


def find_stages(model: nn.Module, like: Tensor) -> list[Stage | None]:
    """The stages of a model for images of a size.

    A stage counts if its module runs once in a forward pass and its output is the very features that
    `forward_intermediates` returns, so that replacing them changes all that follows.

    Args:
        model: Bare model; it is left unchanged.
        like: Any batch of such images.

    Returns:
        One entry per stage of `feature_info`, None where features cannot be mixed.

    Raises:
        ValueError: There is no stage at which features can be mixed.
    """
    modules = dict(model.named_modules())
    candidates = [_ends_of(entry['module'], modules) for entry in stage_info(model)]
    outputs: dict[str, list[Tensor | None]] = {name: [] for names in candidates for name in names}

    def record(name: str) -> Callable[..., None]:
        # Cloned: what comes next may work in place.
        return lambda module, inputs, output: outputs[name].append(
            output.clone() if isinstance(output, Tensor) else None
        )

    # Of a stream of its own, to leave the run's alone; not zeros, which look the same in every layout.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *like.shape[1:], generator=generator).to(like)
    handles = [modules[name].register_forward_hook(record(name)) for name in outputs]
    try:
        with torch.no_grad(), in_eval_mode(model):
            run_detached(model, x)
            remove(handles)
            maps = run_detached(_Intermediates(model), x) if outputs else []
    except MISFIT as error:
        raise ValueError(_refusal(model)) from error
    finally:
        remove(handles)
    stages = [
        next(filter(None, (_stage(name, outputs[name], features) for name in names)), None)
        for names, features in zip(candidates, maps)
    ]
    if not any(stages):
        raise ValueError(_refusal(model))
    return stages


def _ends_of(name: str, modules: dict[str, nn.Module]) -> list[str]:
    """Modules that give out what a stage does: itself, and the last of a sequence, which checkpointing calls alone."""
    names = [name] if name in modules else []
    while names and isinstance(modules[names[-1]], nn.Sequential) and len(modules[names[-1]]):
        names.append(f'{names[-1]}.{list(modules[names[-1]]._modules)[-1]}')
    return names


def _stage(name: str, outputs: list[Tensor | None], features: Tensor) -> Stage | None:
    if len(outputs) != 1 or outputs[0] is None:
        return None
    size = features.shape[-2:]
    for layout, kind in LAYOUTS.items():
        try:
            found = kind.to_map(outputs[0], size)
        except (RuntimeError, IndexError):  # of other dimensions
            continue
        # A device may sum up in another order from one pass to the next.
        if found.shape == features.shape and torch.allclose(
            found.float(), features.float(), rtol=0.01, atol=0.01 * features.float().abs().max().item()
        ):
            return Stage(name, layout, size)
    return None


def _refusal(model: nn.Module) -> str:
    return (
        f'{type(model).__name__} has no stages at which features can be mixed: choose another model, or mix images '
        f'with --cutmix or --mixup.'
    )


class _Intermediates(nn.Module):
    """The feature maps (B, C, h, w) of a model, aligned with its `feature_info`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(x, norm=False, output_fmt='NCHW', intermediates_only=True)
