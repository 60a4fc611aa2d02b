"""Training images augmented as a finished run augmented them, for a look at its model."""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.data import Mixup
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from keepaug.augment import Compose
from keepaug.console.processes import process_count, process_rank
from keepaug.data.classes import ClassList
from keepaug.data.loaders import build_train_loader
from keepaug.data.mixing import build_mixing
from keepaug.data.seeding import preserved_streams, seed_streams
from keepaug.data.sets import build_train_dataset
from keepaug.data.wrapped import Selection
from keepaug.measuring.risks import select_batches, without_smoothing
from keepaug.methods import active_methods, build_augment, outside_training, wrap_dataset, wrap_loader
from keepaug.methods.method import spell
from keepaug.training.early_exit_task import load_early_exit
from keepaug.training.forward import Forward

_logger = logging.getLogger('validate')

# Where the images come from and what they are is the business of who looks, not of the run.
SOURCE = (
    'data',
    'data_dir',
    'dataset',
    'dataset_download',
    'class_map',
    'input_img_mode',
    'input_key',
    'target_key',
    'dataset_trust_remote_code',
    'num_classes',
    'workers',
    'pin_mem',
    'channels_last',
)


# Numbers that multiply work and memory: a record may be anybody's, and is not followed beyond these.
MOST = dict(augment_copies=1_000, aug_splits=1_000, recount=1_000, epoch_repeats=10_000, train_img_sizes=16_384)


class SeededSelection(Selection):
    """Some samples of a data set, the draws of each by its number alone, whichever worker or process makes them.

    Args:
        dataset: Map-style data set.
        requests: What the data set is asked for: numbers of samples, or such in a tuple with a size.
        seed: Seed of all draws.
    """

    def __init__(self, dataset: Dataset, requests: Sequence, seed: int):
        super().__init__(dataset, requests)
        self.seed = seed

    def __getitem__(self, index: int):
        request = self.requests[index]
        seed_streams(mix_seed(self.seed, request[0] if isinstance(request, tuple) else request))
        return super().__getitem__(index)


class AugmentedBatches:
    """Batches of a run's training images, augmented as the run did at its full strength.

    The same images are drawn the same way each time, whatever the number of workers and processes. What a batch mixes
    is its own images, so that results depend on the run's batch size, as its training did.

    Args:
        loader: The run's training loader, without prefetcher; its order does not count.
        samples: Numbers of the images, even in number so that they can be mixed in pairs.
        augment: What the run's batches pass through on the device, or None.
        mixup_fn: Stock's mixing, or None.
        forward: How batches reach the model.
        smoothing: Label smoothing of mixed labels, which is taken out: it is no augmentation.
        seed: Seed of all draws.
        rank: This process.
        world_size: Processes that share the batches.
    """

    def __init__(
        self,
        loader: DataLoader,
        samples: Sequence[int],
        augment: Compose | None,
        mixup_fn: Mixup | None,
        forward: Forward,
        smoothing: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.batches = select_batches(
            loader, samples, partial(SeededSelection, seed=seed), slice(rank, None, world_size)
        )
        self.steps: list[Callable] = [step for step in (mixup_fn, augment) if step is not None]
        self.forward = forward
        self.smoothing = smoothing
        self.seed = seed
        self.numbers = range(rank, rank + world_size * len(self.batches), world_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and their targets: class indices (B,) or, where labels are mixed, (B, K)."""
        with preserved_streams(self.forward.device, mix_seed(self.seed, 0)):
            for number, (x, target) in zip(self.numbers, self.batches):
                seed_streams(mix_seed(self.seed, -1 - number))  # samples have the numbers from 0
                x, target = self.forward.place_batch(x, target)
                with self.forward.autocast():
                    for step in self.steps:
                        x, target = step(x, target)
                yield x, without_smoothing(target, self.smoothing)


def mix_seed(seed: int, number: int) -> int:
    """A seed that all random streams take, another for each number."""
    # Of 32 bits, all of which NumPy takes and torch spreads; a large odd factor keeps seeds and numbers apart there.
    return (seed * 2_654_435_761 + number) % 2**32


def check_replay(recorded: argparse.Namespace) -> None:
    """Says what of a run's augmentation cannot be had outside its training.

    Raises:
        ValueError: Something cannot.
    """
    reasons = [
        f'{method.spelled(recorded)} {method.only_in_training}'
        for method in active_methods(recorded)
        if method.only_in_training
    ]
    if recorded.naflex_loader:
        reasons.append('--naflex-loader makes batches of patches')
    if recorded.task == 'multilabel':
        reasons.append('--task multilabel has several labels per image')
    if recorded.mixup_mode == 'half' and (recorded.mixup or recorded.cutmix or recorded.cutmix_minmax):
        reasons.append('--mixup-mode half works in the prefetching loader only')
    for name, most in MOST.items():
        value = vars(recorded)[name]
        if any(number > most for number in (value if isinstance(value, list) else [value or 0])):
            reasons.append(f'{spell(name, value)} is more than any run uses')
    if reasons:
        raise ValueError(f'--evaluate risk cannot augment as the run did: {reasons[0]}. Leave risk out.')


def build_augmented(
    args: argparse.Namespace,
    recorded: argparse.Namespace,
    model: nn.Module,
    checkpoint: dict[str, Any],
    data_config: dict[str, Any],
    forward: Forward,
    choose: Callable[[Dataset], Sequence[int]],
    classes: ClassList | None = None,
) -> AugmentedBatches:
    """The augmentation of a run, from its recorded arguments, on the data that the validation is given.

    Args:
        args: Options of the validation.
        recorded: The run's, as `keepaug.options.recorded.read_recorded` gives them.
        model: The run's model, bare, on the device.
        checkpoint: What `check_checkpoint` read of the run; its early head guides what an early head guided.
        data_config: How images enter the model.
        forward: How batches reach the model.
        choose: Takes the training set, gives the numbers of the images to look at.
        classes: The list of classes of the validation; None where the training set makes it.

    Raises:
        ValueError: The augmentation works in training mode only, or cannot be had with this model or data.
    """
    check_replay(recorded)
    run = outside_training(recorded)
    for name in SOURCE:
        setattr(run, name, vars(args)[name])
    run.img_size, run.input_size = None, list(data_config['input_size'])
    # Without the prefetcher all that is drawn for an image is drawn with it, not batches ahead.
    run.prefetcher, run.use_multi_epochs_loader, run.distributed = False, False, False
    run.rank, run.world_size, run.seed = process_rank(), process_count(), args.seed
    run.train_split = 'train'
    try:
        dataset: Any = wrap_dataset(build_train_dataset(run, data_config, classes), run)
        if isinstance(dataset, IterableDataset):
            raise ValueError('this data set cannot give single samples')
        _fit_batches(run, len(dataset))
        mixup_fn, _ = build_mixing(run)
        loader = build_train_loader(run, dataset, data_config, forward.device, forward.dtype, None)
        loader = wrap_loader(loader, dataset, run)
        augment = build_augment(run, _with_early_head(model, checkpoint, args))
    except ValueError as error:
        raise ValueError(f'--evaluate risk cannot augment as the run did: {error}') from error
    if augment is not None:
        augment.set_progress(1.0)
    return AugmentedBatches(
        loader,
        _shuffled(choose(dataset), args.seed),
        augment,
        mixup_fn,
        forward,
        run.smoothing,
        args.seed,
        run.rank,
        run.world_size,
    )


def _fit_batches(run: argparse.Namespace, images: int) -> None:
    """Makes the run's batches no larger than the training set: its loader drops what does not fill one."""
    most = max(images - images % 2, 2)
    sizes = [run.batch_size, *(run.train_batch_sizes or ())]
    if max(sizes) > most:
        _logger.info(
            f'--evaluate risk uses batches of {most} images, since the training set has no more; the run used '
            f'{max(sizes)}.'
        )
    run.batch_size = min(run.batch_size, most)
    run.train_batch_sizes = run.train_batch_sizes and [min(size, most) for size in run.train_batch_sizes]


def _shuffled(samples: Sequence[int], seed: int) -> list[int]:
    """Samples in a random order, an even number of them: an image folder's are sorted by class, and a batch that mixes
    must not hold one class."""
    if len(samples) < 2:
        raise ValueError(
            f'--evaluate risk needs two training images to mix, but has {len(samples)}: raise --eval-samples.'
        )
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    return [samples[place] for place in order[: len(order) // 2 * 2]]


def _with_early_head(model: nn.Module, checkpoint: dict[str, Any], args: argparse.Namespace) -> nn.Module:
    """The model with the early head of its checkpoint, where it holds one."""
    state = checkpoint.get('task_state_ema' if args.use_ema else 'task_state') or {}
    if 'early_exit' not in state:
        return model
    return load_early_exit(model, checkpoint, f'The checkpoint {args.checkpoint}', args.use_ema)
