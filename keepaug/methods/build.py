"""The seams: what the methods that are on make of a training set, a loader and a task."""

import argparse
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import nn
from torch.utils.data import Dataset

from keepaug.augment import BatchAugment, Compose
from keepaug.console.processes import is_first_process
from keepaug.data.transform import TransformChanges, change_transform
from keepaug.methods.method import Method
from keepaug.methods.registry import active_methods
from keepaug.models.early_exit import backbone_of
from keepaug.ranges import HyperParameterError
from keepaug.training.augmented_task import AugmentedTask
from keepaug.training.images import image_shapes

_logger = logging.getLogger('train')


def check_data(args: argparse.Namespace) -> None:
    """Says what is wrong with the data that methods read, as far as names and listings tell, before anything is built.

    Args:
        args: Options returned by `keepaug.prepare`.

    Raises:
        ValueError: They cannot be used.
    """
    for method in active_methods(args):
        method.check_data(args)


def wrap_dataset(dataset: Dataset, args: argparse.Namespace) -> Dataset:
    """Gives a training set the transforms of ours that the options ask for.

    Args:
        dataset: Data set, map-style or iterable, before it goes to `timm.data.create_loader`.
        args: Options returned by `keepaug.prepare`.

    Returns:
        `dataset` itself where nothing of ours applies to it.
    """
    active = active_methods(args)
    changes = TransformChanges()
    for method in active:
        method.change_transform(changes, args)
    dataset = change_transform(dataset, changes)
    for method in active:
        dataset = method.wrap_dataset(dataset, args)
    return dataset


def wrap_loader(loader, dataset: Dataset, args: argparse.Namespace):
    """Gives a training loader what of ours the options ask for.

    Args:
        loader: What timm's factory made of the training set.
        dataset: That set, as `wrap_dataset` gave it.
        args: Options returned by `keepaug.prepare`.

    Returns:
        The loader itself where nothing of ours applies to it.
    """
    for method in active_methods(args):
        loader = method.wrap_loader(loader, dataset, args)
    return loader


def wrap_task(task: TrainingTask, args: argparse.Namespace) -> TrainingTask:
    """Gives a task the early head and its training batches the augmentations that the options ask for.

    Call it right after the task is made, before EMA, compile and DDP: the augmentations look at the bare model.

    Args:
        task: Any task of `timm.task`.
        args: Options returned by `keepaug.prepare`.

    Returns:
        `task` itself where nothing of ours is on, so that a run without our flags is stock's.

    Raises:
        ValueError: An augmentation does not fit the model.
    """
    args = _with_classes(args, task)
    for method in active_methods(args):
        task = method.wrap_task(task, args)
    # The student alone where the task trains more, as feature distillation does.
    augment = build_augment(args, unwrap_model(task.get_eval_model()))
    if augment is None:
        return task
    if is_first_process():
        _logger.info('Batches are augmented by ' + ', then '.join(map(repr, augment.augments)))
    for method in active_methods(args):
        own = method.augment_task(task, augment, args)
        if own is not None:
            return own
    return AugmentedTask(task, augment)


def list_records(dataset: Dataset, args: argparse.Namespace) -> dict[str, str]:
    """Text files that the methods leave in the run's folder, by name.

    Args:
        dataset: The training set, as `wrap_dataset` gave it.
        args: Options returned by `keepaug.prepare`.
    """
    records: dict[str, str] = {}
    for method in active_methods(args):
        records |= method.records(dataset, args)
    return records


def _with_classes(args: argparse.Namespace, task: TrainingTask) -> argparse.Namespace:
    """The options with the model's number of classes, as far as it tells, where another script has not filled it in."""
    if args.num_classes is not None:
        return args
    classes = getattr(unwrap_model(task.get_eval_model()), 'num_classes', None)
    return argparse.Namespace(**{**vars(args), 'num_classes': classes})


def outside_training(args: argparse.Namespace) -> argparse.Namespace:
    """The options of a run as they are where its images are made outside of its training."""
    instead: dict[str, Any] = {}
    for method in active_methods(args):
        instead |= method.outside_training(args)
    return argparse.Namespace(**{**vars(args), **instead})


def build_augment(args: argparse.Namespace, model: nn.Module) -> Compose | None:
    """The batch augmentations that are on, in the order in which a batch meets them; None if there are none.

    Args:
        args: Options returned by `keepaug.prepare`.
        model: The bare model in training, or an `EarlyExit` around it.

    Raises:
        ValueError: A value does not fit.
    """
    built = [augment for method in active_methods(args) if (augment := build_method(method, args, model)) is not None]
    return Compose(built) if built else None


def build_method(method: Method, args: argparse.Namespace, model: nn.Module) -> BatchAugment | None:
    """The batch augmentation of one method, see `build_augment`; None where it has none.

    Raises:
        ValueError: A value does not fit.
    """
    bare = backbone_of(model)
    with told_by_flags(method, args):
        augment = method.build(args, model)
        if augment is None:
            return None
        for images in image_shapes(args, bare):
            augment.check_images(images)
    augment.name = augment.name or method.name
    return augment


@contextlib.contextmanager
def told_by_flags(method: Method, args: argparse.Namespace) -> Iterator[None]:
    """Lets an error about a hyper-parameter name the flag that sets it."""
    try:
        yield
    except HyperParameterError as error:
        name = method.flag_of(error.parameter, args)
        unset = any(flag.option == name and not flag.is_given(args) for flag in method.flags)
        if unset and error.value is not None:
            name += ' must be given, since its default'
        raise ValueError(error.named(name)) from error
