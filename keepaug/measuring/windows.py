"""What keep-cut and keep-paste would lose or keep with other windows, each beside its control, drawn blindly."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from keepaug.augment import BatchAugment
from keepaug.augment.base import default_window
from keepaug.augment.keep_region import KeepRegion
from keepaug.functional import input_saliency
from keepaug.measuring.intervals import half_width
from keepaug.measuring.regions import Shares, Step, first_rows, join, measure, share_in
from keepaug.methods import KeepMethod, build_method, method_of

# Windows drawn for each image: beyond a few, what differs is the images.
DRAWS = 4


class Window(NamedTuple):
    """How a region is drawn.

    Attributes:
        size: Edge of the window in pixels; None where each has a size of its own.
        tau: Quantile; None for a blind draw.
    """

    size: int | None
    tau: float | None


class Trial:
    """One window on many images, and the same drawn blindly.

    Args:
        method: The method that draws it.
        window: The window.
        augment: Draws by saliency.
        blind: Draws the same windows blindly; None where `augment` does.

    Attributes:
        region: What happens in the region, as a participle.
        areas: Share of each image in its regions, float64 (N,).
        saliencies: Share of its saliency by the full pass.
        controls: The same of windows drawn blindly.
    """

    def __init__(self, method: KeepMethod, window: Window, augment: KeepRegion, blind: KeepRegion | None):
        self.method, self.window, self.augment, self.blind = method, window, augment, blind
        self.region = method.region
        self.areas, self.saliencies, self.controls = (torch.empty(0, dtype=torch.float64) for _ in range(3))

    @property
    def name(self) -> str:
        """The augmentation, by its class."""
        return type(self.augment).__name__

    @property
    def count(self) -> int:
        """Images that have a region in any draw."""
        return int(self.areas.isfinite().sum())

    @property
    def area(self) -> float:
        """Mean share of the image."""
        return self.areas.nanmean().item()

    @property
    def saliency(self) -> float:
        """Mean share of the saliency."""
        return self.saliencies.nanmean().item()

    @property
    def gain(self) -> tuple[float, float]:
        """By how much more saliency is kept than by a blind draw, and half its 95% interval, paired by image."""
        gains = self.saliencies - self.controls
        gains = gains[gains.isfinite()] * (1.0 if self.method.keeps_region else -1.0)
        return gains.mean().item(), half_width(gains)

    def add(self, received: tuple[Tensor, Tensor | None], saliency: Tensor | None, judge: Tensor, seed: int) -> None:
        """Measures the first images of a batch.

        Args:
            received: The batch, images and targets, in as many rows as the augmentation takes.
            saliency: The map to draw by, of all its images; None where all is drawn blindly.
            judge: Saliency (B, 1, H, W) of the first B by the full pass.
            seed: Of all draws: what both draw alike, such as sizes, is the same.
        """
        found = []
        augments: list[Any] = [each for each in (self.augment, self.blind) if each is not None]
        for augment in augments:
            augment.source = None if augment.tau is None else lambda *_: saliency
            draws = [self._share(augment, received, judge, seed + draw) for draw in range(DRAWS)]
            found.append(torch.stack(draws).nanmean(0).cpu())
        (areas, saliencies), (_, controls) = found[0], found[-1]
        self.areas = torch.cat([self.areas, areas])
        self.saliencies = torch.cat([self.saliencies, saliencies])
        self.controls = torch.cat([self.controls, controls])

    def _share(self, augment: KeepRegion, received: tuple[Tensor, Tensor | None], judge: Tensor, seed: int) -> Tensor:
        """Shares of images and saliency in the regions of one draw, (2, B); nan of images without a region."""
        x, target = received
        augment(x, target, torch.Generator(x.device).manual_seed(seed))
        self.region = self.method.region_of(augment.last)
        mask = augment.last['mask'][: len(judge)]
        shares = torch.stack([share_in(mask, weight) for weight in (torch.ones_like(judge), judge)])
        return shares.masked_fill(~mask.flatten(1).any(1), torch.nan)


class Trials(list[Trial]):
    """Windows of one method, tried on the same images.

    Args:
        trials: The trials, the window of the run first.
        model: The bare model, whose full pass judges.
    """

    def __init__(self, trials: Sequence[Trial], model: nn.Module):
        super().__init__(trials)
        self.model = model
        self.source = next((trial.augment.source for trial in trials if trial.augment.source is not None), None)

    def add(self, step: Step, rows: int, seed: int) -> None:
        """Measures the first images of a batch, given what the augmentation of the run did to it."""
        images = len(step.received[0]) // step.augment.rows_per_sample
        saliency = None if self.source is None else self.source(*first_rows(step.received, images))
        judge = input_saliency(self.model, *first_rows(step.received, rows)) if step.judge is None else step.judge
        for trial in self:
            trial.add(step.received, saliency, judge, seed)


def build_trials(
    args: argparse.Namespace,
    method: KeepMethod,
    model: nn.Module,
    bare: nn.Module,
    image: tuple[int, int],
    sizes: Sequence[int] = (),
    taus: Sequence[float | None] = (),
) -> Trials:
    """The window of the run, then once each the others that are made of some sizes and quantiles, the smallest first.

    Args:
        args: Options returned by `keepaug.prepare`.
        method: The method, which is on.
        model: The model in training, or an `EarlyExit` around it.
        bare: That model, without the head.
        image: Size (H, W) of the images.
        sizes: Edges in pixels; none for that of the run.
        taus: Quantiles; none for that of the run.

    Raises:
        ValueError: A value does not fit.
    """
    size = None if method.draws_size(args) else method.window_size(args) or default_window(*image)
    run = Window(size, args.keep_tau)
    edges: list[int | None] = [*sorted(sizes)] if size and sizes else [size]
    quantiles = taus or [run.tau]
    quantiles = sorted(quantiles, key=lambda tau: 2.0 if tau is None else tau)  # blind draws behind the others
    windows = [Window(edge, tau) for edge in edges for tau in quantiles]

    def build(window: Window) -> Any:
        # Every image has its region: how many have one in the run is no matter of where it lies.
        options = dict(keep_size=window.size, keep_paste_size=window.size, keep_tau=window.tau, keep_prob=1.0)
        return build_method(method, argparse.Namespace(**{**vars(args), **options}), model)

    trials = [
        Trial(method, window, build(window), None if window.tau is None else build(window._replace(tau=None)))
        for window in dict.fromkeys([run, *windows])
    ]
    return Trials(trials, bare)


class RegionStatistics:
    """What lies in the regions of every augmentation, over several batches.

    Args:
        trials: Windows to try, by the name of their method.
    """

    def __init__(self, trials: Mapping[str, Trials]):
        self.trials = trials
        self.found: dict[BatchAugment, list[Shares]] = {}
        self.images = 0

    def add(self, steps: Sequence[Step], rows: int, seed: int) -> None:
        """Takes in what augmentations did to the first images of a batch; all further draws follow from a seed."""
        for step in steps:
            of_step = self.found.setdefault(step.augment, [])
            if step.method.name in self.trials:
                self.trials[step.method.name].add(step, rows, seed)
            elif (shares := measure(step)) is not None:
                of_step.append(shares)
        self.images += rows

    def rows(self) -> list[Shares | Trial]:
        """All that was measured, in the order in which a batch meets it."""
        rows: list[Shares | Trial] = []
        for augment, parts in self.found.items():
            rows += self.trials.get(method_of(augment.name).name, [join(parts)] if parts else [])
        return rows

    def of_run(self) -> list[Shares | Trial]:
        """The same without the windows that are not the run's."""
        others = {id(trial) for trials in self.trials.values() for trial in trials[1:]}
        return [row for row in self.rows() if id(row) not in others]
