"""What a classifier says of two images mixed into one (CutMix, Figure 5b)."""

import torch
from torch import Tensor

from keepaug.evaluation.data import Batches
from keepaug.evaluation.draw import uniform_per_image
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.functional.mixing import boxes_at, cutmix_sizes
from keepaug.functional.regions import boxes_to_mask
from keepaug.measuring.intervals import percent_interval

# Weights of the first image: nought to one in tenths, as in the figure.
TENTHS = 10


def in_between(subject: Subject, batches: Batches, partners: Batches) -> Report:
    """The share of mixed images whose predicted class is neither of the two that were mixed.

    Args:
        subject: Classifier.
        batches: Validation images.
        partners: As many others in another order; pairs of one class are left out.

    Returns:
        For `mixup` and `cutmix`: `<mixer>_neither`, the mean over all weights, and `<mixer>_neither_half` at one half.

    Raises:
        ValueError: All pairs are of one class.
    """
    neither = torch.zeros(2, TENTHS + 1, dtype=torch.float64, device=subject.device)
    images, pairs = torch.zeros(2, dtype=torch.float64, device=subject.device)
    classes = 2
    for (x, target, numbers), (other, other_target, _) in zip(batches, partners):
        x, other = x.float(), other.float()
        places = uniform_per_image(numbers, 2, seed=subject.seed, device=subject.device)
        counted = target != other_target
        images += len(target)
        pairs += counted.sum()
        for tenth in range(TENTHS + 1):
            lam = tenth / TENTHS
            for row, mixed in zip(neither, (mixup(x, other, lam), cutmix(x, other, lam, places))):
                with torch.no_grad():
                    logits = subject.logits(mixed)
                predicted, classes = logits.argmax(1), logits.shape[1]
                row[tenth] += (counted & (predicted != target) & (predicted != other_target)).sum()
    images, pairs = (int(subject.total(count)) for count in (images, pairs))
    if not pairs:
        raise ValueError(
            f'--evaluate in-between found no pair of different classes among {images} images: leave it out, or raise '
            '--eval-samples.'
        )
    shares = 100 * subject.total(neither).cpu() / pairs
    lams = [tenth / TENTHS for tenth in range(TENTHS + 1)]
    values, curves, intervals = {}, {}, {}
    for name, share in zip(('mixup', 'cutmix'), shares):
        values[f'{name}_neither'] = torch.trapezoid(share, dx=1 / TENTHS).item()
        values[f'{name}_neither_half'] = share[TENTHS // 2].item()
        curves[name] = (lams, share.tolist())
        intervals[name] = percent_interval(share, pairs)
    return Report(
        'in-between',
        values=values,
        settings=dict(pairs=pairs, weights=len(lams)),
        note='Share of predictions that are neither class of a pair, in percent. A model trained with a mixer was '
        'trained for that curve; the other mixer tells more.',
        panels=[
            Panel(
                'in-between classes',
                'weight of the first image',
                'neither class in %',
                curves,
                intervals=intervals,
                baseline='guessing',
                baselines={'': ([0, 1], [100 * (1 - 2 / classes)] * 2)},
            )
        ],
    )


def mixup(x: Tensor, other: Tensor, lam: float) -> Tensor:
    """`lam` of an image and the rest of another, pixel by pixel."""
    return lam * x + (1 - lam) * other


def cutmix(x: Tensor, other: Tensor, lam: float, places: Tensor) -> Tensor:
    """Images (B, C, H, W) with a box of the others in them, shaped like the image and wholly inside.

    Args:
        x: Images.
        other: Others.
        lam: Share that is left of an image, but for the rounding of the box down to whole pixels.
        places: Where the boxes lie (B, 2); see `boxes_at`.
    """
    size = tuple(x.shape[-2:])
    sizes = cutmix_sizes(x.new_full((len(x),), lam, dtype=torch.float64), size)
    return torch.where(boxes_to_mask(boxes_at(places, sizes, size), size), other, x)
