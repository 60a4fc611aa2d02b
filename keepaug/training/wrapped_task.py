"""A training task around another."""

from typing import Any

from timm.task import TrainingTask
from timm.utils import unwrap_model


class WrappedTask(TrainingTask):
    """A task that is another one in all but what a subclass changes.

    The inner task stays the owner of model, EMA, DDP and checkpoint state.

    Attributes:
        task: The inner task.
    """

    def __init__(self, task: TrainingTask):
        super().__init__(device=task.device, dtype=task.dtype, verbose=task.verbose)
        self.task = task

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'task':
                raise
            return getattr(self.task, name)

    def set_progress(self, progress: float) -> None:
        """Tells what grows with the training which share of it, 0 to 1, is done."""
        if isinstance(self.task, WrappedTask):
            self.task.set_progress(progress)

    def set_step(self, progress: float) -> None:
        """Tells what moves with every update which share of the scheduled ones, 0 to 1 and beyond, is done."""
        if isinstance(self.task, WrappedTask):
            self.task.set_step(progress)

    def prepare_distributed(self, device_ids=None, **ddp_kwargs) -> TrainingTask:
        self.task.prepare_distributed(device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, *args, **kwargs):
        return self.task.compile(*args, **kwargs)

    def get_trainable_module(self, ema: bool = False):
        return self.task.get_trainable_module(ema=ema)

    def setup_ema(self, *args, **kwargs):
        return self.task.setup_ema(*args, **kwargs)

    def has_ema(self) -> bool:
        return self.task.has_ema()

    def compile_ema(self, *args, **kwargs):
        return self.task.compile_ema(*args, **kwargs)

    def update_ema(self, step: int | None = None) -> None:
        self.task.update_ema(step=step)

    def get_clip_parameters(self, exclude_head: bool = False):
        return self.task.get_clip_parameters(exclude_head=exclude_head)

    def get_eval_model(self, module=None, ema: bool = False):
        return self.task.get_eval_model(module, ema=ema)

    def get_task_state(self, module=None, ema: bool = False) -> dict[str, Any]:
        return self.task.get_task_state(module, ema=ema)

    def load_task_state(self, state, strict: bool = True, module=None, ema: bool = False) -> None:
        self.task.load_task_state(state, strict=strict, module=module, ema=ema)

    def get_checkpoint_state(self, ema: bool = False, unwrap_fn=unwrap_model) -> dict[str, Any]:
        return self.task.get_checkpoint_state(ema=ema, unwrap_fn=unwrap_fn)

    def load_checkpoint_state(self, state_dict, task_state=None, ema: bool = False, strict: bool = True) -> None:
        self.task.load_checkpoint_state(state_dict, task_state, ema=ema, strict=strict)

    def no_sync(self):
        return self.task.no_sync()

    def create_evaluator(self, **kwargs):
        return self.task.create_evaluator(**kwargs)


def innermost_task(task: TrainingTask) -> TrainingTask:
    """The task inside all wrappings, which owns the criterion."""
    while isinstance(task, WrappedTask):
        task = task.task
    return task
