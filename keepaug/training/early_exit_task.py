"""Training an early head beside any task, with checkpoints that stay those of the plain model."""

from typing import Any

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model

from keepaug.console.errors import first_line
from keepaug.files.checkpoints import recorded_args
from keepaug.models.early_exit import EARLY_WEIGHT, EarlyExit
from keepaug.training.wrapped_task import WrappedTask, innermost_task

# The head's weight, which decays, and its bias, which does not: the last groups of an optimizer that trains it.
HEAD_GROUPS = 2
OptimizerState = dict[str, Any]


class EarlyExitTask(WrappedTask):
    """A task whose model gets an early head, trained by the task's own criterion.

    The loss is the inner task's plus the weighted loss of the early head, given apart as `early_loss`. Optimizer, EMA,
    clipping, compile and DDP see the head as part of the trainable module. In checkpoints `state_dict` and `optimizer`
    are those of the plain model; the head's weights and its optimizer's state are in `task_state`.

    Args:
        task: Task that trains a bare model.
        weight: Weight of the early loss.
        stage: Stage that the head follows; see `EarlyExit`.

    Raises:
        ValueError: The model has no such stage, or the task trains more than a model.
    """

    def __init__(self, task: TrainingTask, weight: float = EARLY_WEIGHT, stage: str | int | None = None):
        super().__init__(task)
        owner = innermost_task(task)
        if not hasattr(unwrap_model(owner.get_trainable_module()), 'get_classifier'):
            raise ValueError(f'An early exit needs a task that trains a bare timm model, not {type(owner).__name__}.')
        owner.trainable_module = EarlyExit(owner.trainable_module, weight, stage)
        # Past nn.Module: an optimizer is none, and is known only later.
        self.optimizer: torch.optim.Optimizer | None = None
        self.loaded_head_state: OptimizerState | None = None

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.training:
            return self.task(input, target)
        early = []

        def take_early(module, inputs, output):
            logits, early_logits = output
            early.append(early_logits)
            return logits

        # On the outermost wrapping: DDP must see both outputs, the inner task the model's own.
        module = self.get_trainable_module()
        handle = module.register_forward_hook(take_early)
        try:
            result = self.task(input, target)
        finally:
            handle.remove()
        early_loss = innermost_task(self).criterion(early[0], target)
        loss = result['loss'] + unwrap_model(module).weight * early_loss
        return {**result, 'loss': loss, 'early_loss': early_loss}

    def get_clip_parameters(self, exclude_head: bool = False):
        module = unwrap_model(self.get_trainable_module())
        # As in timm, the classifier's weight and bias are a model's last parameters.
        return list(module.backbone.parameters())[:-2] if exclude_head else module.parameters()

    def get_task_state(self, module=None, ema: bool = False) -> dict[str, Any]:
        state = dict(self.task.get_task_state(module, ema=ema))
        state['early_exit'] = self._early_exit(ema).head.state_dict()
        if self.optimizer is not None and not ema:
            state['early_exit_optimizer'] = split_groups(self.optimizer.state_dict())[1]
        return state

    def load_task_state(self, state, strict: bool = True, module=None, ema: bool = False) -> None:
        state = dict(state or {})
        head, self.loaded_head_state = state.pop('early_exit', None), state.pop('early_exit_optimizer', None)
        if head is not None:  # a checkpoint of a run without early exit leaves the head as it is
            early_exit = self._early_exit(ema)
            try:
                early_exit.head.load_state_dict(head, strict=strict)
            except RuntimeError as error:
                raise RuntimeError(
                    f'its early head does not fit after {early_exit.early_classifier().place}, where '
                    '--early-exit-stage puts it'
                ) from error
        self.task.load_task_state(state, strict=strict, module=module, ema=ema)

    def get_checkpoint_state(self, ema: bool = False, unwrap_fn=unwrap_model) -> dict[str, Any]:
        state = self.task.get_checkpoint_state(ema=ema, unwrap_fn=lambda model: unwrap_fn(model).backbone)
        if state:
            state['task_state_ema' if ema else 'task_state'] = self.get_task_state(ema=ema)
        return state

    def load_checkpoint_state(self, state_dict, task_state=None, ema: bool = False, strict: bool = True) -> None:
        self._early_exit(ema).backbone.load_state_dict(state_dict, strict=strict)
        self.load_task_state(task_state, strict=strict, ema=ema)

    def _early_exit(self, ema: bool) -> EarlyExit:
        return unwrap_model(self.get_eval_model(ema=ema))


def load_early_exit(
    model: torch.nn.Module, checkpoint: dict[str, Any], source: str, use_ema: bool = False
) -> EarlyExit:
    """A model with the early head that a checkpoint holds beside its weights.

    Args:
        model: Bare model, its weights loaded already.
        checkpoint: What `check_checkpoint` read.
        source: Its flag and file, for the sentence.
        use_ema: Take the average's head.

    Raises:
        ValueError: The checkpoint has no early head, or one of another model.
    """
    head = (checkpoint.get('task_state_ema' if use_ema else 'task_state') or {}).get('early_exit')
    if head is None:
        raise ValueError('it holds no early head: train with --early-exit.')
    early_exit = EarlyExit(model, stage=recorded_args(checkpoint, source).get('early_exit_stage'))
    try:
        early_exit.head.load_state_dict(head)
    except RuntimeError as error:
        raise ValueError(f'its early head belongs to another model ({first_line(error)}).') from error
    return early_exit


def find_early_exit(task: TrainingTask) -> EarlyExitTask | None:
    """The early-exit task among the wrappings of a task."""
    while isinstance(task, WrappedTask):
        if isinstance(task, EarlyExitTask):
            return task
        task = task.task
    return None


def add_head(optimizer: torch.optim.Optimizer, task: EarlyExitTask, weight_decay: float) -> None:
    """Lets an optimizer of the backbone train the early head too, in groups behind the backbone's."""
    head = unwrap_model(task.get_trainable_module()).head
    optimizer.add_param_group({'params': [head.weight], 'weight_decay': weight_decay})
    optimizer.add_param_group({'params': [head.bias], 'weight_decay': 0.0})
    task.optimizer = optimizer


def split_groups(state: OptimizerState) -> tuple[OptimizerState, OptimizerState]:
    """An optimizer's state without the groups of the early head, as stock has it, and those groups alone."""
    groups = state['param_groups']
    of_head = {index for group in groups[-HEAD_GROUPS:] for index in group['params']}
    plain = {index: value for index, value in state['state'].items() if index not in of_head}
    head = {index: value for index, value in state['state'].items() if index in of_head}
    return (
        {**state, 'state': plain, 'param_groups': groups[:-HEAD_GROUPS]},
        {'state': head, 'param_groups': groups[-HEAD_GROUPS:]},
    )


class PlainOptimizer:
    """What checkpoints see of an optimizer that also trains an early head: the state of the plain model.

    Args:
        task: Task that it trains.
        optimizer: The optimizer.
    """

    def __init__(self, task: EarlyExitTask, optimizer: torch.optim.Optimizer):
        self.task = task
        self.optimizer = optimizer

    def state_dict(self) -> OptimizerState:
        return split_groups(self.optimizer.state_dict())[0]

    def load_state_dict(self, state: OptimizerState) -> None:
        """Takes the plain model's state, and the head's where the checkpoint just loaded had one."""
        head = self.task.loaded_head_state or split_groups(self.optimizer.state_dict())[1]
        self.task.loaded_head_state = None  # the optimizer holds it from here on
        self.optimizer.load_state_dict(
            {
                **state,
                'state': {**state['state'], **head['state']},
                'param_groups': state['param_groups'] + head['param_groups'],
            }
        )


def checkpoint_optimizer(task: TrainingTask, optimizer: torch.optim.Optimizer):
    """What stands for the optimizer in checkpoints: itself, or its plain part where there is an early head."""
    early_exit = find_early_exit(task)
    return optimizer if early_exit is None else PlainOptimizer(early_exit, optimizer)
