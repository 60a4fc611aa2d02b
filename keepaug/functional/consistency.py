"""Learning from images without labels: what a network says of an image must not depend on how that was augmented.

Xie et al., Unsupervised Data Augmentation for Consistency Training, 2019.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# How much of the way from chance to certainty a label's probability may have come, by the share t of the training's
# updates that is done (Xie et al., Training Signal Annealing). With 5, the paper's number, `log` has come 92 % of the
# way after half of them, `exp` 8 %.
ANNEALING: dict[str, Callable[[float], float]] = {
    'linear': lambda t: t,
    'log': lambda t: 1.0 - math.exp(-5.0 * t),
    'exp': lambda t: math.exp(5.0 * (t - 1.0)),
}


def consistency_loss(
    logits: Tensor, augmented: Tensor, temperature: float = 1.0, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Divergence KL(p(y|x) || p(y|x')) of what is said of augmented images from what is said of the images themselves.

    p(y|x) is a target: no gradient flows through it. It is sharpened, softmax(logits / temperature), and a row counts
    only where the largest probability before that exceeds the threshold (Xie et al., sharpening predictions and
    confidence-based masking; KeepAugment, section 4.3).

    Args:
        logits: Of the images, (B, K).
        augmented: Of the same images after augmentation, (B, K).
        temperature: Above 0; below 1 it sharpens.
        threshold: In [0, 1).

    Returns:
        The loss in nats, summed over the rows that count and divided by B, and which rows (B,) those are.
    """
    with torch.no_grad():
        confident = logits.float().softmax(1).amax(1) > threshold
        target = F.log_softmax(logits.float() / temperature, 1)
    divergence = F.kl_div(F.log_softmax(augmented.float(), 1), target, reduction='none', log_target=True).sum(1)
    return torch.where(confident, divergence, 0.0).mean(), confident


def annealing_threshold(schedule: str, progress: float, num_classes: int) -> float:
    """Probability of its label up to which a row is still learnt from: rises from chance to 1 over the training.

    Args:
        schedule: A name in `ANNEALING`. `exp` releases the labels late, `log` early.
        progress: Share of the training's updates that is done, in [0, 1].
        num_classes: Classes K; chance is 1 / K.
    """
    chance = 1.0 / num_classes
    return chance + ANNEALING[schedule](progress) * (1.0 - chance)


def annealed_cross_entropy(logits: Tensor, target: Tensor, threshold: float, smoothing: float = 0.0) -> Tensor:
    """Cross entropy in nats, averaged over the rows whose label has at most a probability; 0 where none has.

    Args:
        logits: (B, K).
        target: Class indices (B,).
        threshold: The probability; see `annealing_threshold`.
        smoothing: Label smoothing of the loss.
    """
    logits = logits.float()
    with torch.no_grad():
        kept = logits.softmax(1).gather(1, target[:, None])[:, 0] <= threshold
    losses = F.cross_entropy(logits, target, reduction='none', label_smoothing=smoothing)
    return torch.where(kept, losses, 0.0).sum() / kept.sum().clamp(min=1)
