"""Forward hooks that do not outlive who put them in place."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


def hook_forward(owner: object, hooks: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> None:
    """Puts forward hooks on modules, which are removed with their owner.

    Args:
        owner: Whom they serve.
        hooks: Modules, each with its hook: a closure over what it reads, but not over the owner. That would keep the
            owner alive, and copy it with the model, as the average of the weights does.
    """
    weakref.finalize(owner, remove, [module.register_forward_hook(hook) for module, hook in hooks])


def remove(handles: Iterable[RemovableHandle]) -> None:
    """Removes hooks; again, if need be."""
    for handle in handles:
        handle.remove()
