"""How many directions a model's representations use: singular values of their covariance.

He et al., "Data Augmentation Revisited", 2019, section 4.1 and Figure 3.
"""

import math
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keepaug.evaluation.data import Batches
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.measuring.intervals import Z

# Singular values above this share of the largest are counted.
COUNTED = 0.01
# Below it they are rounding errors, which the picture leaves out: fewer images than dimensions make zeros of them.
ROUNDING = 1e-12
# How many of the largest values' share of the variance is told, and which value is told by itself: the paper looks at
# the hundredth, as CIFAR-100 has a hundred classes.
TOP, NTH = 10, 100


class GroupedMoments:
    """Means of groups of vectors, and the scatter of the vectors around the means of their groups.

    Vectors come in batches and are not kept. Batches and processes are merged by Chan, Golub and LeVeque's update
    ("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), in float64: no large sums of
    squares are subtracted from each other.

    Args:
        groups: K.
        dimension: D.
        device: Device of the sums.

    Attributes:
        count: Vectors by group, float64 (K,).
        mean: (K, D), zero for groups without vectors.
        scatter: Sum over all vectors of the outer product of the deviation from the group's mean with itself: (D, D).
    """

    def __init__(self, groups: int, dimension: int, device: torch.device | None = None):
        double: dict[str, Any] = dict(dtype=torch.float64, device=device)
        self.count = torch.zeros(groups, **double)
        self.mean = torch.zeros(groups, dimension, **double)
        self.scatter = torch.zeros(dimension, dimension, **double)

    def update(self, features: Tensor, group: Tensor) -> None:
        """Adds vectors (B, D) of the groups (B,)."""
        if not len(features):
            return
        features = features.double()
        present, row = group.unique(return_inverse=True)
        member = F.one_hot(row, len(present)).double()
        count = member.sum(0)
        mean = member.T @ features / count[:, None]
        deviation = features - mean[row]
        before = self.count[present]
        shift = mean - self.mean[present]
        after = before + count
        self.scatter += deviation.T @ deviation + (shift.T * (before * count / after)) @ shift
        self.mean[present] += shift * (count / after)[:, None]
        self.count[present] = after

    def merge(self, total: Callable[[Tensor], Tensor]) -> None:
        """Takes in those of the other processes.

        Args:
            total: Sums a tensor over all processes.
        """
        count = total(self.count)
        mean = total(self.mean * self.count[:, None]) / count.clamp(min=1.0)[:, None]
        shift = (self.mean - mean) * (self.count > 0)[:, None]
        self.scatter = total(self.scatter + (shift.T * self.count) @ shift)
        self.count, self.mean = count, mean

    def between(self) -> Tensor:
        """Scatter of the groups' means, each counted once per vector, around the mean of all: (D, D)."""
        share = self.count / self.count.sum()
        shift = self.mean - share @ self.mean
        return (shift.T * self.count) @ shift


def spectrum(subject: Subject, batches: Batches, classes: Sequence[int] = (0,)) -> Report:
    """Singular values of the covariance of penultimate features, over all images and within classes.

    Args:
        subject: The classifier.
        batches: Training images.
        classes: Those that are looked at alone, each at the price of a matrix of the features' dimension.

    Returns:
        For `all` images, for those of each of the classes (`class0`) and `within` all classes, pooled: `rank`, the
        number of values above 1 % of the largest; `effective_rank`, the exponential of the entropy of the values'
        shares; `top10`, the share of the variance in the ten largest, in percent; `log10_largest`, the size of the
        largest; and `100th`, the hundredth in percent of the largest, where there are as many. Nothing for features
        that are all the same.

    Raises:
        ValueError: The model has no such features, they are not finite, or a class is none or has fewer than two
            images.
    """
    check_spectrum(subject, classes)
    within, alone = measure_moments(subject, batches, classes)
    images, present = int(within.count.sum()), int((within.count > 0).sum())
    of_class = {number: int(moments.count) for number, moments in alone.items()}
    for number, count in of_class.items():
        if count < 2:
            raise ValueError(
                f'--spectrum-class {number} has {count} of the {images} training images used, but a covariance needs '
                'at least two: name another class, or raise --eval-samples.'
            )
    matrices = {
        'all': ('all classes', images, (within.scatter + within.between()) / (images - 1)),
        **{
            f'class{number}': (
                f'class {subject.name_class(number)}',
                of_class[number],
                moments.scatter / (of_class[number] - 1),
            )
            for number, moments in alone.items()
        },
        'within': ('within classes, pooled', images, within.scatter / (images - present)),
    }
    values, panels = {}, []
    for name, (title, count, covariance) in matrices.items():
        found = singular_values(covariance)
        values.update({f'{name}_{what}': value for what, value in describe(found).items()})
        shown = found[found > ROUNDING * found.max()]
        panels.append(
            Panel(
                title,
                'singular values, from the largest',
                'value',
                {f'{count} images': (list(range(1, len(shown) + 1)), shown.tolist())},
                yscale='log',
                intervals={f'{count} images': spread(shown, count)},
            )
        )
    return Report(
        'spectrum',
        values=values,
        settings=dict(
            images=images,
            classes=list(of_class),
            images_of_classes=list(of_class.values()),
            dimension=len(within.scatter),
        ),
        note='Singular values of covariance matrices: the squared singular values of the centred features, divided '
        'by n - 1. n images give at most n - 1 that are not zero: compare models on the same images, and on '
        'more images than dimensions. The values follow the scale of the features, which differs between '
        'models; ranks and shares do not.',
        panels=panels,
    )


def check_spectrum(subject: Subject, classes: Sequence[int]) -> None:
    """Says before any image is read that there is no spectrum.

    Raises:
        ValueError: The model does not give its penultimate features as timm's models do, or a class is none.
    """
    model = subject.bare
    head = getattr(model, 'forward_head', None)
    if head is None or not hasattr(model, 'forward_features') or 'pre_logits' not in signature(head).parameters:
        raise ValueError(
            "--evaluate spectrum needs forward_features and forward_head as in timm's models, but "
            f'{type(model).__name__} has none: leave it out.'
        )
    if max(classes) >= subject.num_classes:
        raise ValueError(
            f'--spectrum-class {max(classes)} is not a class of {subject.name}: choose from the classes 0 to '
            f'{subject.num_classes - 1}.'
        )


def measure_moments(
    subject: Subject, batches: Batches, classes: Sequence[int]
) -> tuple[GroupedMoments, dict[int, GroupedMoments]]:
    """Moments of the penultimate features of the images of all processes: by class, and of some classes alone."""

    def none_of(dimension: int) -> tuple[GroupedMoments, dict[int, GroupedMoments]]:
        return GroupedMoments(subject.num_classes, dimension, subject.device), {
            number: GroupedMoments(1, dimension, subject.device) for number in classes
        }

    within: GroupedMoments | None = None
    alone: dict[int, GroupedMoments] = {}
    for x, target, _ in batches:
        features = penultimate(subject, x)
        if within is None:
            within, alone = none_of(features.shape[1])
        within.update(features, target)
        for number, moments in alone.items():
            members = features[target == number]
            moments.update(members, target.new_zeros(len(members)))
    # A process without images learns from the others how long their sums are.
    dimension = int(subject.gather(torch.tensor([0 if within is None else within.mean.shape[1]])).max())
    if within is None:
        within, alone = none_of(dimension)
    for moments in (within, *alone.values()):
        moments.merge(subject.total)
    return within, alone


@torch.no_grad()
def penultimate(subject: Subject, x: Tensor) -> Tensor:
    """What the classifier's last layer sees of images: (B, D), float32.

    Raises:
        ValueError: It is a map, not a vector.
    """
    model = subject.bare
    features = subject.forward(lambda x: model.forward_head(model.forward_features(x), pre_logits=True), x)
    if features.flatten(1).shape[1] != features.shape[1]:
        raise ValueError(
            f'--evaluate spectrum needs one vector per image, but {type(model).__name__} gives a map of '
            f'{tuple(features.shape[1:])}: leave it out, or pool with --gp avg.'
        )
    return features.flatten(1).float()


def singular_values(covariance: Tensor) -> Tensor:
    """Singular values of a covariance matrix (D, D), from the largest: float64 (D,), on the CPU.

    It is symmetric and no eigenvalue is negative but by rounding, so that they are the eigenvalues.

    Raises:
        ValueError: An entry is not finite.
    """
    if not covariance.isfinite().all():
        raise ValueError(
            '--evaluate spectrum: the features are not finite numbers: use a wider number format than that of --amp '
            'or --model-dtype.'
        )
    return torch.linalg.eigvalsh(covariance.cpu()).clamp(min=0.0).flip(0)


def spread(values: Tensor, images: int) -> tuple[list[float], list[float]]:
    """95% intervals of singular values (D,) that so many images gave, each by itself.

    Of many images the logarithm of an eigenvalue has a standard error of sqrt(2 / n) (Anderson, "Asymptotic Theory for
    Principal Component Analysis", 1963), where images are hardly more than dimensions the tail is off by more.
    """
    factor = math.exp(Z * math.sqrt(2 / images))
    return (values / factor).tolist(), (values * factor).tolist()


def describe(values: Tensor) -> dict[str, float]:
    """A spectrum in numbers; none where all values are zero.

    The effective rank is Roy and Vetterli's ("The Effective Rank: A Measure of Effective Dimensionality", 2007).

    Args:
        values: Singular values from the largest (D,).
    """
    largest = values[0].item()
    if not largest:
        return {}
    share = values / values.sum()
    numbers = dict(
        rank=(values > COUNTED * largest).sum().item(),
        effective_rank=torch.special.entr(share).sum().exp().item(),
        top10=100.0 * share[:TOP].sum().item(),
        log10_largest=math.log10(largest),
    )
    if len(values) >= NTH:
        numbers[f'{NTH}th'] = 100.0 * values[NTH - 1].item() / largest
    return numbers
