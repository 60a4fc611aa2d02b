"""The two risks of a finished run: its loss on clean training images, and on training images as it augmented them.

He et al., "Data Augmentation Revisited", 2019, section 3.2 and Table 2.
"""
from collections.abc import Iterable

import torch
from torch import Tensor

from keepaug.engine.risk import total_loss
from keepaug.evaluation.data import Batches
from keepaug.evaluation.report import Report
from keepaug.evaluation.subject import Subject


def risk(subject: Subject, clean: Batches, augmented: Iterable[tuple[Tensor, Tensor]]) -> Report:
    """Mean cross entropy on training images, clean and augmented.

    Args:
        subject: The classifier.
        clean: Training images as they are validated.
        augmented: The same images as the run augmented them, with their targets: class indices (B,) or mixed (B, K).

    Returns:
        `clean` and `augmented` in nats per image, and `gap`, the second less the first.
    """
    of_clean, images = mean_loss(subject, clean)
    of_augmented, rows = mean_loss(subject, augmented)
    return Report(
        'risk',
        values=dict(clean=of_clean, augmented=of_augmented, gap=of_augmented - of_clean),
        settings=dict(images=images, augmented_images=rows),
        note='Cross entropy in nats per image, the table of the paper shows thousandths of it. The augmentation is that of '
             'the scheduled epochs, at its full strength, in eval mode: compare the clean risk between runs, the augmented '
             'one only with the clean one of the same run, for each run is augmented its own way.',
    )


@torch.no_grad()
def mean_loss(subject: Subject, batches: Iterable[tuple]) -> tuple[float, int]:
    """Mean cross entropy in nats over the batches of all processes, and their number of images."""
    sums = torch.zeros(2, dtype=torch.float64, device=subject.device)
    for x, target, *_ in batches:
        sums[0] += total_loss(subject.logits(x), target)
        sums[1] += len(x)
    total, images = subject.total(sums).tolist()
    return total / images, int(images)

