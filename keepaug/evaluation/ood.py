"""Out-of-distribution detection: can images unlike the training data be told by how sure the model is of them.

CutMix, section 4.4 and Table 12; the scores are those of Hendrycks & Gimpel, "A Baseline for Detecting Misclassified
and Out-of-Distribution Examples in Neural Networks", 2017, and of ODIN: Liang et al., "Enhancing the Reliability of
Out-of-Distribution Image Detection in Neural Networks", 2018.
"""

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from keepaug.evaluation.data import Batches
from keepaug.evaluation.fgsm import finite_sign
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.functional.saliency import GRADIENT_SCALE
from keepaug.measuring.intervals import wilson
from keepaug.measuring.replay import mix_seed
from keepaug.options.ood import read_set
from keepaug.validation.analysis import BINS
from keepaug.validation.runs import label_runs

# The scores, in the order of `score_images`, as columns and as a picture's legend call them.
SCORES = {'softmax': 'largest softmax', 'odin': 'ODIN'}
# What the images are called that a score is to tell from others.
INSIDE = 'in-distribution'
# Share of in-distribution images that the threshold of `tnr95` lets through.
TPR = 0.95
# Points of a curve in the picture.
POINTS = 201


def name_sets(folders: Sequence[str]) -> dict[str, str]:
    """Folders by the names their results get: those that were given, as `NAME=PATH`, or as much of the path's end as
    tells a folder, each of which counts once, from the others and from noise."""
    sets = [read_set(folder) for folder in folders]
    named = {name: path for name, path in sets if name}
    paths = {os.path.abspath(path): path for name, path in sets if not name}
    labels = label_runs([*paths, *named, *NOISE, INSIDE])
    return {**dict(zip(labels, paths.values())), **named}


def uniform_noise(image: Tensor, generator: torch.Generator) -> None:
    """Fills an image (C, H, W) with pixels uniform in [0, 1]."""
    image.uniform_(generator=generator)


def gaussian_noise(image: Tensor, generator: torch.Generator) -> None:
    """Fills an image (C, H, W) with pixels of mean 0.5 and variance 1, clipped to [0, 1] (Liang et al., appendix)."""
    image.normal_(0.5, 1.0, generator=generator).clamp_(0.0, 1.0)


NOISE = {'uniform': uniform_noise, 'gaussian': gaussian_noise}


def ood(
    subject: Subject,
    batches: Batches,
    out: Mapping[str, Batches],
    temperature: float = 1000.0,
    eps: float = 0.0014,
) -> Report:
    """Tells in-distribution images from others by two scores of how sure the model is.

    Beside the image sets given stand as many images of uniform and of Gaussian noise as there are in-distribution ones.

    Args:
        subject: The classifier.
        batches: In-distribution images.
        out: Out-of-distribution images by name of the set.
        temperature: ODIN's T.
        eps: ODIN's perturbation, in pixel values of [0, 1].

    Returns:
        For each score, over all sets (`softmax_auroc`) and for each set (`uniform_softmax_auroc`): `tnr95`, the share
        of out-of-distribution images rejected by the largest threshold that lets 95 % of the others through; `auroc`;
        and `detection`, the largest mean of both shares of right decisions over all thresholds. `ece`: calibration
        error of the plain predictions on in-distribution images. All in percent.

    Raises:
        ValueError: The classifier tells fewer than two classes apart, or an answer or gradient is not finite.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in (INSIDE, *NOISE, *out)}
    predictions = []
    for x, target, index in batches:
        logits, of_batch = score_images(subject, x, temperature, eps)
        predictions.append(confidence(logits, target))
        parts[INSIDE].append(of_batch)
        for name, pixels in draw_noise(x, index, subject.seed).items():
            parts[name].append(score_images(subject, subject.normalise(pixels), temperature, eps)[1])
    for name, images in out.items():
        parts[name] += [score_images(subject, x, temperature, eps)[1] for x, *_ in images]

    scores = {name: _check_finite(_gather(subject, rows), name) for name, rows in parts.items()}
    inside = scores.pop(INSIDE)
    found = {name: [detection(inside[:, i], rows[:, i]) for i in range(len(SCORES))] for name, rows in scores.items()}
    values = {'ece': calibration_error(_gather(subject, predictions))}
    for i, score in enumerate(SCORES):
        for metric in found['uniform'][i][0]:
            each = {f'{name}_{score}_{metric}': metrics[i][0][metric] for name, metrics in found.items()}
            values[f'{score}_{metric}'] = sum(each.values()) / len(each)
            values.update(each)
    return Report(
        'ood',
        values=values,
        settings=dict(
            odin_temperature=temperature,
            odin_eps=eps,
            images=len(inside),
            **{f'images_{name}': len(rows) for name, rows in scores.items()},
        ),
        note="In-distribution images are the positives. ODIN's temperature and perturbation are fixed beforehand; "
        'its authors tune them on out-of-distribution images, which measures knowledge of the test. Values '
        'without the name of a set are means over the sets, two of which are noise.',
        panels=[_roc(name, [curve for _, curve in metrics], len(inside)) for name, metrics in found.items()],
    )


def score_images(subject: Subject, x: Tensor, temperature: float, eps: float) -> tuple[Tensor, Tensor]:
    """How sure a classifier is of images, plainly and by ODIN.

    ODIN moves each pixel by `eps` to where the answer grows surer, x + eps sign(d log S / dx), and divides the logits
    by `temperature` (Liang et al., Eq. 1 and 2).

    Args:
        subject: The classifier.
        x: Normalised images (B, C, H, W).
        temperature: T.
        eps: Perturbation in pixel values of [0, 1]; 0 for the temperature alone.

    Returns:
        The plain logits (B, K) and the scores, float64 (B, 2), in the order of `SCORES`.

    Raises:
        ValueError: The gradient is not finite.
    """
    moves = eps != 0.0
    x = x.detach().float().requires_grad_(moves)
    with torch.set_grad_enabled(moves):
        logits = subject.logits(x)
        sureness = log_odds(logits, temperature)
        if moves:
            # Times the temperature, or the gradient would be a thousandth of a logit's and vanish in float16.
            (gradient,) = torch.autograd.grad(sureness.sum() * (temperature * GRADIENT_SCALE), x)
    logits = logits.detach()
    if moves:
        with torch.no_grad():
            sureness = log_odds(subject.logits(x + eps / subject.std * finite_sign(gradient)), temperature)
    return logits, torch.stack([log_odds(logits), sureness.detach()], 1)


def log_odds(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log(p / (1 - p)) of the largest softmax p of logits / temperature.

    It orders images as p does, and its gradient has the signs of that of log p; but where p is 1 - 1e-20, or 1 / K but
    for a millionth, it still tells one image from the next.

    Args:
        logits: (B, K).
        temperature: Divides the logits.

    Returns:
        float64 (B,).
    """
    logits = logits.double() / temperature
    largest, label = logits.max(1)
    return largest - logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)


def draw_noise(like: Tensor, index: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Noise of each kind in the shape of a batch: pixels in [0, 1], each image's by its number alone."""
    noise = {name: torch.empty(like.shape, device=like.device) for name in NOISE}
    generator = torch.Generator(like.device)
    for row, number in enumerate(index):
        generator.manual_seed(mix_seed(seed, number))
        for name, fill in NOISE.items():
            fill(noise[name][row], generator)
    return noise


def confidence(logits: Tensor, target: Tensor) -> Tensor:
    """Largest softmax, and whether its class is right: (B, 2)."""
    largest, label = logits.double().softmax(1).max(1)
    return torch.stack([largest, (label == target).double()], 1)


def calibration_error(predictions: Tensor) -> float:
    """Expected calibration error in percent.

    Args:
        predictions: Of each image its confidence and 1 where it is right, else 0: (N, 2).
    """
    from torchmetrics.functional.classification import binary_calibration_error

    sure, right = predictions.T.contiguous()
    return 100.0 * binary_calibration_error(sure, right.long(), n_bins=BINS, norm='l1').item()


def detection(inside: Tensor, outside: Tensor) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
    """How well a score tells in-distribution images, which are to score high, from others.

    Args:
        inside: Scores (N,) of in-distribution images.
        outside: Scores (M,) of the others.

    Returns:
        `tnr95`, `auroc` and `detection` in percent, and the ROC curve: shares of in-distribution images let through
        by share of the others let through.
    """
    from torchmetrics.functional.classification import binary_roc

    # By rank: torchmetrics would press scores beyond [0, 1] through a sigmoid, where the sure ones become equal.
    distinct, rank = torch.cat([inside, outside]).unique(return_inverse=True)
    is_inside = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    fpr, tpr, _ = binary_roc(rank.double() / len(distinct), is_inside)
    # The first of the points that let enough through: the largest threshold.
    rejected = 1.0 - fpr[(tpr >= TPR).int().argmax()]
    fpr, tpr = fpr.double(), tpr.double()
    metrics = dict(
        tnr95=rejected,
        auroc=torch.trapezoid(tpr, fpr),
        detection=(tpr + 1.0 - fpr).max() / 2.0,
    )
    return {name: 100.0 * value.item() for name, value in metrics.items()}, (fpr, tpr)


def _gather(subject: Subject, rows: list[Tensor]) -> Tensor:
    """The batches of pairs (B, 2) of all processes, some of which may have none: (N, 2)."""
    none = torch.empty(0, 2, dtype=torch.float64, device=subject.device)
    return subject.gather(torch.cat([none, *rows]))


def _check_finite(rows: Tensor, name: str) -> Tensor:
    """The scores (N, 2) of a set, if they have an order.

    Raises:
        ValueError: They do not.
    """
    if not rows.isfinite().all():
        raise ValueError(
            f'--evaluate ood: the answers to {name} images are not finite numbers, or the classifier has a single '
            'class: use one with two or more classes, or a wider number format than that of --amp or --model-dtype.'
        )
    return rows


def _roc(name: str, curves: Sequence[tuple[Tensor, Tensor]], images: int) -> Panel:
    """The picture of a set: ROC curves of both scores, given the number of in-distribution images."""
    shown = {label: _thinned(*curve) for label, curve in zip(SCORES.values(), curves)}
    return Panel(
        f'validation images against {name}',
        f'share of {name} let through (false positive rate)',
        'share of validation images let through',
        shown,
        intervals={
            label: tuple(end.tolist() for end in wilson(torch.tensor(shares), images))
            for label, (_, shares) in shown.items()
        },
        baseline='guessing',
        baselines={'': ([0, 1], [0, 1])},
    )


def _thinned(fpr: Tensor, tpr: Tensor) -> tuple[list[float], list[float]]:
    kept = torch.linspace(0, len(fpr) - 1, min(POINTS, len(fpr))).round().long()
    return fpr[kept].tolist(), tpr[kept].tolist()
