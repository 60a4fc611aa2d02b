"""Training on labelled and unlabelled images together (Xie et al., Unsupervised Data Augmentation, 2019)."""

from typing import NamedTuple

import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from keepaug.augment import Compose
from keepaug.functional import annealed_cross_entropy, annealing_threshold, consistency_loss
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.criterion import Criterion
from keepaug.training.wrapped_task import innermost_task

# Those of UDA's published code for CIFAR-10.
TEMPERATURE, THRESHOLD = 0.4, 0.8


class Losses(NamedTuple):
    """What a batch is trained by.

    Attributes:
        labelled: Mean loss of the labelled rows.
        consistency: Divergence of what is said of augmented images, without its weight.
        confident: Share of the unlabelled images that count in it.
    """

    labelled: Tensor
    consistency: Tensor
    confident: Tensor


class AnnealedCrossEntropy(nn.Module):
    """Cross entropy that leaves out rows which are known well already (Xie et al., Training Signal Annealing).

    Args:
        schedule: How the threshold rises; see `annealing_threshold`.
        smoothing: Label smoothing.

    Attributes:
        progress: Share of the training's updates, 0 to 1, that is done.
        threshold: That of the last batch; 1 before the first.
    """

    def __init__(self, schedule: str, smoothing: float = 0.0):
        super().__init__()
        self.schedule = schedule
        self.smoothing = smoothing
        self.progress = 0.0
        self.threshold = 1.0

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        self.threshold = annealing_threshold(self.schedule, self.progress, output.shape[1])
        return annealed_cross_entropy(output, target, self.threshold, self.smoothing)


class ConsistencyCriterion(nn.Module):
    """The loss of labelled rows, and the weighted divergence of unlabelled ones (KeepAugment, section 4.3).

    Takes logits of B labelled rows, U unlabelled images, and the same U images augmented, in this order, with B
    targets; of B rows alone it is the labelled loss.

    Args:
        labelled: Criterion of the labelled rows.
        weight: Weight of the divergence.
        temperature: See `consistency_loss`.
        threshold: See `consistency_loss`.

    Attributes:
        watched: Whether the parts of the loss are kept.
        parts: Those of the last batch, detached, one for each time it was called: of the output, then of an early head.
    """

    def __init__(self, labelled: Criterion, weight: float, temperature: float, threshold: float):
        super().__init__()
        self.labelled = labelled
        self.weight = weight
        self.temperature = temperature
        self.threshold = threshold
        self.watched = False
        self.parts: list[Losses] = []

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if len(output) == len(target):
            return self.labelled(output, target)
        labelled = self.labelled(output[: len(target)], target)
        clean, augmented = output[len(target) :].chunk(2)
        consistency, confident = consistency_loss(clean, augmented, self.temperature, self.threshold)
        if self.watched:
            self.parts.append(Losses(labelled.detach(), consistency.detach(), confident.float().mean()))
        return labelled + self.weight * consistency


class ConsistencyTask(AugmentedTask):
    """A task whose batches hold unlabelled images too, each before and after a policy (`keepaug.data.unlabelled`).

    Only the unlabelled images are augmented. All rows, the labelled, the unlabelled and the augmented ones, go through
    the network in one batch, whose statistics are of all.

    Args:
        task: The task; its criterion becomes that of the labelled rows.
        augment: What makes the augmented image out of the pair.
        ratio: Unlabelled images to each labelled one.
        weight: See `ConsistencyCriterion`.
        temperature: See `consistency_loss`.
        threshold: See `consistency_loss`.
        annealed: Takes the place of the task's criterion; None to leave it.
    """

    def __init__(
        self,
        task: TrainingTask,
        augment: Compose,
        ratio: int,
        weight: float = 1.0,
        temperature: float = TEMPERATURE,
        threshold: float = THRESHOLD,
        annealed: AnnealedCrossEntropy | None = None,
    ):
        super().__init__(task, augment)
        self.ratio = ratio
        self.annealed = annealed
        owner = innermost_task(task)
        owner.criterion = ConsistencyCriterion(annealed or owner.criterion, weight, temperature, threshold)
        self.criterion = owner.criterion
        self._reset()

    @property
    def rows_per_sample(self) -> int:
        """Rows of a batch to each labelled one."""
        return 1 + 2 * self.ratio

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        if not self.training:
            return self.task(input, target)
        labelled, target = len(input) // self.rows_per_sample, target[: len(input) // self.rows_per_sample]
        pairs, _ = self.augmented_part(input, target)
        if self.watched:
            self.received = pairs, None
        augmented, _ = self.augment(pairs, None)
        self.criterion.watched, self.criterion.parts = self.watched, []
        result = self.task(torch.cat([input[:labelled], pairs[: len(augmented)], augmented]), target)
        if self.criterion.parts:  # when watched, and where there are unlabelled images
            self._sums += torch.stack(self.criterion.parts[0]).double()
            self._batches += 1
        return result

    def augmented_part(self, input: Tensor, target: Tensor) -> tuple[Tensor, None]:
        return input[len(input) // self.rows_per_sample :], None

    def set_progress(self, progress: float) -> None:
        self._reset()
        super().set_progress(progress)

    def set_step(self, progress: float) -> None:
        if self.annealed is not None:
            self.annealed.progress = min(progress, 1.0)  # refined epochs come after the scheduled ones
        super().set_step(progress)

    def scalars(self) -> dict[str, float]:
        if not self._batches:
            return {}
        told = Losses(*(self._sums / self._batches).tolist())._asdict()
        if self.annealed is not None:
            told['tsa_threshold'] = self.annealed.threshold
        return {f'uda/{name}': value for name, value in told.items()}

    def _reset(self) -> None:
        self._sums = torch.zeros(len(Losses._fields), dtype=torch.float64, device=self.device)
        self._batches = 0
