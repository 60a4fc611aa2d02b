"""Dropping features inside the model of any task, with a probability that may rise over the training."""

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model

from keepaug.augment.ramp import Ramp
from keepaug.models.early_exit import backbone_of
from keepaug.models.feature_dropout import StageDropout
from keepaug.training.wrapped_task import WrappedTask


class FeatureDropoutTask(WrappedTask):
    """A task whose model drops features in training.

    Args:
        task: Task that trains a bare model, not compiled yet.
        kind: What is dropped; see `StageDropout`.
        prob: Probability that a feature is dropped, below 1.
        block: Edge of DropBlock's squares, in places of a map.
        ramp: Share of the training over which the probability rises linearly from 0 (DropBlock's paper: 1); 0 for none.

    Raises:
        ValueError: The model has not the places.
    """

    def __init__(self, task: TrainingTask, kind: str, prob: float, block: int = 7, ramp: float = 0.0):
        super().__init__(task)
        model = unwrap_model(task.get_trainable_module())
        self.prob = prob
        self.risen = Ramp(ramp)
        self.dropping = StageDropout(backbone_of(model), kind, block)
        if not ramp:
            self.dropping.set_prob(prob)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.task(input, target)

    def set_progress(self, progress: float) -> None:
        self.risen.set_progress(progress)
        self.dropping.set_prob(self.prob * float(self.risen))
        super().set_progress(progress)
