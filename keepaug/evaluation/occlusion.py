"""How much of an image a classifier can do without (CutMix, Figure 5a; Occlusions, "a stethoscope for capacity")."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from keepaug.evaluation.data import Batches
from keepaug.evaluation.draw import uniform_per_image
from keepaug.evaluation.fgsm import count_hits
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.functional.masks import cells_to_mask
from keepaug.functional.regions import boxes_to_mask
from keepaug.measuring.intervals import percent_interval

# From nothing hidden to everything, in eighths: of the image's edge for holes, of the cells' probability for the grid.
STEPS = 8
GRID = 4  # cells along an edge, as in the paper on occlusions

# Size (H, W), numbers of the images, step of STEPS, seed, device -> bool (B, 1, H, W), True where the image is hidden.
Occluder = Callable[[Sequence[int], Sequence[int], int, int, torch.device], Tensor]


def occlusion(subject: Subject, batches: Batches) -> Report:
    """Error against the share of the image that is hidden, in three ways.

    `center`: a hole in the middle. `boundary`: all but such a hole. `hide_and_seek`: cells of a 4 x 4 grid, each by
    its own draw; what is hidden at one step stays hidden at the next.

    Args:
        subject: Classifier.
        batches: Validation images.

    Returns:
        `<way>_auc`: the area under the curve, which is the mean top-1 error over all shares from 0 to 1;
        `<way>_half`: the error where half of the image is hidden, interpolated; `clean_error`: where nothing is.
    """
    shape = (len(OCCLUDERS), STEPS + 1)
    hits, shares = (torch.zeros(shape, dtype=torch.float64, device=subject.device) for _ in range(2))
    images, classes = torch.zeros((), dtype=torch.float64, device=subject.device), 1
    for x, target, numbers in batches:
        x = x.float()
        images += len(target)
        for way, occlude in enumerate(OCCLUDERS.values()):
            for step in range(STEPS + 1):
                hidden = occlude(x.shape[-2:], numbers, step, subject.seed, subject.device)
                with torch.no_grad():
                    logits = subject.logits(x.masked_fill(hidden, 0.0))  # 0 is the mean colour
                hits[way, step] += count_hits(logits, target)[0]
                classes = logits.shape[1]
                shares[way, step] += hidden.double().mean((1, 2, 3)).sum()
    images = subject.total(images).item()
    errors = 100 * (1 - subject.total(hits).cpu() / max(images, 1))
    shares = subject.total(shares).cpu() / max(images, 1)
    values, curves, intervals = {'clean_error': errors[0, 0].item()}, {}, {}
    for name, error, share in zip(OCCLUDERS, errors, shares):
        values[f'{name}_auc'] = torch.trapezoid(error, share).item()
        values[f'{name}_half'] = interpolate(0.5, share, error)
        label = name.replace('_', ' ')
        curves[label] = (share.tolist(), error.tolist())
        intervals[label] = percent_interval(error, images)
    return Report(
        'occlusion',
        values=values,
        settings=dict(steps=STEPS, grid=GRID, images=int(images)),
        note='Top-1 error with a share of the image set to the mean colour. Only cutting methods train on such '
        'images, so a curve shows robustness to this fill, not to objects in front.',
        panels=[
            Panel(
                'error under occlusion',
                'share hidden',
                'top-1 error in %',
                curves,
                intervals=intervals,
                baseline='guessing',
                baselines={'': ([0, 1], [100 * (1 - 1 / classes)] * 2)},
            )
        ],
    )


def center_hole(size: Sequence[int], numbers: Sequence[int], step: int, seed: int, device: torch.device) -> Tensor:
    """A hole in the middle whose edges are `step` eighths of the image's."""
    (top, bottom), (left, right) = (_middle(edge, step) for edge in size)
    box = torch.tensor([[left, top, right, bottom]], device=device)
    return boxes_to_mask(box, size).expand(len(numbers), -1, -1, -1)


def boundary(size: Sequence[int], numbers: Sequence[int], step: int, seed: int, device: torch.device) -> Tensor:
    """All but the hole that is as many steps from everything as this is from nothing."""
    return ~center_hole(size, numbers, STEPS - step, seed, device)


def hide_and_seek(size: Sequence[int], numbers: Sequence[int], step: int, seed: int, device: torch.device) -> Tensor:
    """Cells of a grid, each hidden with a probability of `step` eighths."""
    draws = uniform_per_image(numbers, GRID, GRID, seed=seed, device=device)
    return cells_to_mask(draws < step / STEPS, size)


OCCLUDERS: dict[str, Occluder] = {'center': center_hole, 'boundary': boundary, 'hide_and_seek': hide_and_seek}


def _middle(edge: int, step: int) -> tuple[int, int]:
    hole = edge * step // STEPS
    start = (edge - hole) // 2
    return start, start + hole


def interpolate(place: float, places: Tensor, values: Tensor) -> float:
    """The value at a place between ascending ones, on the straight line that joins its neighbours."""
    right = int(torch.searchsorted(places, place).clamp(1, len(places) - 1))
    x0, x1, y0, y1 = (value.item() for value in (*places[right - 1 : right + 1], *values[right - 1 : right + 1]))
    return y0 + (y1 - y0) * (place - x0) / (x1 - x0) if x1 > x0 else y1
