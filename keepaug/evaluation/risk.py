"""The two risks of a finished run: its loss on clean training images, and on training images as it augmented them.

He et al., "Data Augmentation Revisited", 2019, section 3.2 and Table 2.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from keepaug.evaluation.data import Batches
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.measuring.intervals import wilson
from keepaug.measuring.risks import losses

# Points of a curve in the picture.
POINTS = 101


def risk(subject: Subject, clean: Batches, augmented: Iterable[tuple[Tensor, Tensor]]) -> Report:
    """Mean cross entropy on training images, clean and augmented.

    Args:
        subject: The classifier.
        clean: Training images as they are validated.
        augmented: The same images as the run augmented them, with their targets: class indices (B,) or mixed (B, K).

    Returns:
        `clean` and `augmented` in nats per image, and `gap`, the second less the first.

    Raises:
        ValueError: A loss is not finite.
    """
    of_clean, of_augmented = (measure_losses(subject, batches) for batches in (clean, augmented))
    means = dict(clean=of_clean.mean().item(), augmented=of_augmented.mean().item())
    share, curves = torch.linspace(0, 1, POINTS, dtype=torch.float64), dict(clean=of_clean, augmented=of_augmented)
    return Report(
        'risk',
        values=dict(**means, gap=means['augmented'] - means['clean']),
        settings=dict(images=len(of_clean), augmented_images=len(of_augmented)),
        note="Cross entropy in nats per image; the paper's table shows thousandths of a nat. The augmentation is "
        'that of the scheduled epochs at full strength, in eval mode. Compare the clean risk between runs. '
        'Compare the augmented one only with the clean one of the same run, since each run has its own '
        'augmentation.',
        panels=[
            Panel(
                'loss on training images',
                'share of the images in %',
                'cross entropy in nats, at most',
                {name: ((100 * share).tolist(), quantiles(of_images, share)) for name, of_images in curves.items()},
                intervals={
                    name: tuple(quantiles(of_images, end) for end in wilson(share, len(of_images)))
                    for name, of_images in curves.items()
                },
                baseline='guessing',
                baselines={'': ([0, 100], [math.log(subject.num_classes)] * 2)},
            )
        ],
    )


def quantiles(losses: Tensor, shares: Tensor) -> list[float]:
    """The losses (N,) that shares of the images do not exceed."""
    return losses.sort().values[(shares * (len(losses) - 1)).long()].tolist()


@torch.no_grad()
def measure_losses(subject: Subject, batches: Iterable[tuple]) -> Tensor:
    """Cross entropies in nats of the images of all processes: float64 (N,), on the CPU.

    Raises:
        ValueError: One is not finite.
    """
    none = torch.empty(0, dtype=torch.float64, device=subject.device)
    of_images = subject.gather(torch.cat([none, *(losses(subject.logits(x), target) for x, target, *_ in batches)]))
    lost = int((~of_images.isfinite()).sum())
    if lost:
        raise ValueError(
            f'--evaluate risk: the losses of {lost} of {len(of_images)} images are not finite numbers: use a wider '
            'number format than that of --amp or --model-dtype.'
        )
    return of_images
