"""How far the accuracy falls when each image takes one small step against the model (CutMix, Table 11)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from keepaug.evaluation.data import Batches
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.functional.saliency import GRADIENT_SCALE
from keepaug.measuring.intervals import percent_interval

# Steps of the curve, as shares of the one that is asked for; the gradient is the same for all.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def fgsm(subject: Subject, batches: Batches, eps: float = 8.0) -> Report:
    """Top-1 and top-5 accuracy under a white-box attack by the fast gradient sign method.

    Goodfellow et al. 2015, Explaining and Harnessing Adversarial Examples: pixels + eps * sign of the loss's gradient.

    Args:
        subject: Classifier.
        batches: Validation images.
        eps: Step of every pixel and channel in units of 1/255.

    Returns:
        `top1` and `top5` of the attacked images, `clean_top1` and `clean_top5` of the same images as they are.

    Raises:
        ValueError: A gradient is not finite.
    """
    hits = torch.zeros(len(SHARES), 2, dtype=torch.float64, device=subject.device)
    images, classes = torch.zeros((), dtype=torch.float64, device=subject.device), 1
    for x, target, _ in batches:
        direction = loss_direction(subject, x, target)
        with torch.no_grad():
            for row, share in zip(hits, SHARES):
                logits = subject.logits(step(subject, x, direction, share * eps / 255))
                row += count_hits(logits, target)
                classes = logits.shape[1]
        images += len(target)
    images = subject.total(images).item()
    accuracy = 100 * subject.total(hits).cpu() / max(images, 1)
    (clean_top1, clean_top5), *_, (top1, top5) = accuracy.tolist()
    steps, columns = [share * eps for share in SHARES], dict(zip(('top-1', 'top-5'), accuracy.T))
    return Report(
        'fgsm',
        values=dict(top1=top1, top5=top5, clean_top1=clean_top1, clean_top5=clean_top5),
        settings=dict(eps=f'{eps:g}/255', images=int(images)),
        note='One white-box step in pixel space, clipped to the pixel range. It bounds robustness from above only: a '
        'model that hides its gradient looks robust and is not.',
        panels=[
            Panel(
                'FGSM',
                'step in 1/255',
                'accuracy in %',
                {name: (steps, column.tolist()) for name, column in columns.items()},
                intervals={name: percent_interval(column, images) for name, column in columns.items()},
                baseline='guessing',
                baselines={
                    name: (steps[:: len(steps) - 1], [100 * min(tries / classes, 1.0)] * 2)
                    for name, tries in zip(columns, (1, 5))
                },
            )
        ],
    )


def loss_direction(subject: Subject, x: Tensor, target: Tensor) -> Tensor:
    """Sign (B, C, H, W) of the gradient of the cross entropy with respect to images, which is that of their pixels.

    Args:
        subject: Classifier.
        x: Images (B, C, H, W), normalised.
        target: Class indices (B,).

    Raises:
        ValueError: The gradient is not finite.
    """
    x = x.detach().float().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(subject.logits(x), target, reduction='sum')
        (gradient,) = torch.autograd.grad(GRADIENT_SCALE * loss, x)  # scaled: nothing vanishes in half precision
    return finite_sign(gradient)


def finite_sign(gradient: Tensor) -> Tensor:
    """Sign of the gradient of images (B, C, H, W).

    Raises:
        ValueError: It is not finite. Its sign would be 0 there, and the image stay as it is without a word.
    """
    lost = int((~gradient.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise ValueError(
            f'The gradients of {lost} images of a batch are not finite numbers: use a wider number format than that '
            'of --amp or --model-dtype.'
        )
    return gradient.sign()


def step(subject: Subject, x: Tensor, direction: Tensor, eps: float) -> Tensor:
    """Images moved by `eps`, in pixels of [0, 1], which they do not leave; none of them moves at 0.

    Args:
        subject: Classifier.
        x: Images (B, C, H, W), normalised.
        direction: Signs (B, C, H, W).
        eps: Step.

    Returns:
        Normalised images in float32.
    """
    if not eps:
        return x.float()
    return subject.normalise((subject.to_pixels(x) + eps * direction).clamp(0, 1))


def count_hits(logits: Tensor, target: Tensor) -> Tensor:
    """How many labels (B,) are the largest of the logits (B, K), and how many among the five largest: (2,)."""
    ranked = logits.topk(min(5, logits.shape[1])).indices == target[:, None]
    return torch.stack([ranked[:, 0].sum(), ranked.sum()])
