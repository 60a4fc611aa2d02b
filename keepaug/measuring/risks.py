"""The two risks of the refinement paper: the loss on training images, augmented as in training, and clean.

He et al., Data Augmentation Revisited, 2019, section 3.2 and Table 2.
"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import AugMixDataset, Mixup, create_loader
from timm.data.loader import PrefetchLoader
from timm.data.scheduled_sampler import ScheduledTransformDataset
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.utils.data import DataLoader, Dataset, IterableDataset

from keepaug.console.interrupts import raise_pending_signal
from keepaug.data.patches import create_patch_loader, eval_patches
from keepaug.data.seeding import SeededLoader, draws_outside_epochs, plain_loader, preserved_streams
from keepaug.data.unlabelled import labelled_numbers
from keepaug.data.wrapped import Selection, WrappedDataset
from keepaug.functional.saliency import in_eval_mode
from keepaug.methods import active_methods
from keepaug.methods.refinement import RisksMethod
from keepaug.training.forward import Forward
from keepaug.training.task import augment_batch

_logger = logging.getLogger('train')


class TrainingRisks:
    """Cross entropy of a model in eval mode on fixed training samples, in their two forms.

    A measurement leaves the run as it was: weights, batch norm statistics and random streams. Both risks are of labels
    without smoothing, so that they can be compared.

    Args:
        loader: The run's training batches: the augmented form is theirs, whatever is switched at the time.
        clean: Batches of the same samples, resized and cropped as in validation.
        samples: Numbers of the samples, even in number so that stock can mix them in pairs.
        forward: How batches reach the model.
        smoothing: Label smoothing of mixed labels.
        seed: The same draws are made at each measurement.
        exact: Draw for each sample apart, so that the number of loader workers does not matter (`--exact-resume`).
    """

    names = ('risk_augmented', 'risk_clean')

    def __init__(
        self,
        loader,
        clean,
        samples: Sequence[int],
        forward: Forward,
        smoothing: float = 0.0,
        seed: int = 0,
        exact: bool = False,
    ):
        self.loader = loader
        self.clean = clean
        self.samples = samples
        self.forward = forward
        self.smoothing = smoothing
        self.seed = seed
        self.exact = exact

    def measure(self, task: TrainingTask, mixup_fn: Mixup | None = None) -> OrderedDict[str, float]:
        """`risk_augmented` and `risk_clean`, both in nats per image."""

        def augment(input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            if mixup_fn is not None:
                input, target = mixup_fn(input, target)
            return augment_batch(task, input, target)

        with preserved_streams(self.forward.device, self.seed):
            return OrderedDict(
                risk_augmented=self._mean_loss(task, self._augmented(), augment),
                risk_clean=self._mean_loss(task, self.clean, lambda input, target: (input, target)),
            )

    def _augmented(self):
        """The run's loader, over the chosen samples."""
        plain = plain_loader(self.loader)
        if self.exact:
            batches: Any = SeededLoader(select_batches(plain, draws_outside_epochs(self.samples)))
        else:
            batches = select_batches(plain, self.samples)
        if not isinstance(self.loader, PrefetchLoader):
            return batches
        prefetcher = copy.copy(self.loader)
        prefetcher.loader = batches
        return prefetcher

    def _mean_loss(self, task: TrainingTask, batches, augment) -> float:
        model = unwrap_model(task.get_eval_model())
        total, count = torch.zeros((), dtype=torch.float64, device=self.forward.device), 0
        with in_eval_mode(model):
            for input, target in batches:
                raise_pending_signal()
                with self.forward.autocast():
                    input, target = augment(*self.forward.place_batch(input, target))
                with torch.no_grad():
                    logits = self.forward(model, input)
                total += losses(logits, without_smoothing(target, self.smoothing)).sum()
                count += len(logits)
        return total.item() / count


def without_smoothing(target: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Mixed labels (B, K) as they were before label smoothing; class indices (B,) as they are."""
    return target if target.ndim == 1 else (target - smoothing / target.shape[1]) / (1.0 - smoothing)


def losses(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropies (B,) in nats of logits (B, K) for class indices (B,) or mixed labels (B, K), in float64."""
    return F.cross_entropy(logits.float(), target, reduction='none').detach().double()


def select_batches(
    plain: DataLoader,
    samples: Sequence,
    select: Callable[[Dataset, Sequence], Dataset] = Selection,
    share: slice = slice(None),
) -> DataLoader:
    """A training loader's batches of some samples, in their order.

    Args:
        plain: The loader, without prefetcher.
        samples: What its data set is asked for, even in number so that stock can mix the samples in pairs.
        select: Makes the data set of the samples that are asked for.
        share: Which of the batches.
    """
    requests: Sequence[Any] = samples
    batch_size: Any = plain.batch_size
    sampler: Any = plain.batch_sampler
    if isinstance(plain.dataset, ScheduledTransformDataset):
        # A sample is asked for together with its size: the last one, in batches of its own.
        requests = [(index, len(plain.dataset.transforms) - 1) for index in requests]
        batch_size = sampler.batch_sizes[-1]
    # Stock mixes in pairs. The last batch is even too, as the samples are.
    batch_size = batch_size - batch_size % 2 or 2
    numbers = list(range(len(requests)))
    batches = [numbers[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    return DataLoader(
        select(plain.dataset, requests),
        batch_sampler=batches[share],
        num_workers=plain.num_workers,
        collate_fn=plain.collate_fn,
        worker_init_fn=plain.worker_init_fn,
        multiprocessing_context=plain.multiprocessing_context,
    )


class NoRisks:
    """Nothing is measured."""

    names = ()

    def measure(self, task: TrainingTask, mixup_fn: Mixup | None = None) -> OrderedDict[str, float]:
        return OrderedDict()


def build_risks(args, loader, data_config: dict[str, Any], forward: Forward) -> TrainingRisks | NoRisks:
    """The risks that `--refine-epochs` or `--risk-samples` ask for, to be measured by the first process.

    It measures alone, on the bare model, so that no collective is needed.
    """
    wanted = RisksMethod.samples(args)
    dataset = loader.dataset
    if not wanted:
        return NoRisks()
    if args.task == 'multilabel':
        _logger.info('The risks on training images are left out: they need one label per image.')
        return NoRisks()
    if isinstance(dataset, IterableDataset):
        _logger.info('The risks on training images are left out: this data set cannot give single samples.')
        return NoRisks()
    for method in active_methods(args):
        if method.only_in_training:
            _logger.info(
                f'The risks on training images are left out: {method.spelled(args)} {method.only_in_training}.'
            )
            return NoRisks()
    samples = choose_samples(dataset, wanted, args.seed)
    samples = samples[: len(samples) // 2 * 2 or None]
    clean = clean_batches(args, dataset, samples, data_config, forward)
    return TrainingRisks(loader, clean, samples, forward, args.smoothing, args.seed, args.exact_resume)


def choose_samples(dataset: Dataset, wanted: int, seed: int) -> list[int]:
    """Numbers of samples whose labels are seen, so many or all, in the order of a seeded draw."""
    numbers = labelled_numbers(dataset)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))[:wanted].tolist()
    return [numbers[place] for place in order]


def clean_batches(args, dataset: Dataset, samples: Sequence[int], data_config: dict[str, Any], forward: Forward):
    """Samples of a training set, read as validation images are, by this process alone and workers that end.

    Args:
        args: Options.
        dataset: The run's training set, whatever wraps it; it keeps its transform.
        samples: Numbers of the samples.
        data_config: How images enter the model.
        forward: Device and number format of the batches.
    """
    inner: Any = dataset
    while isinstance(inner, (WrappedDataset, ScheduledTransformDataset, AugMixDataset)):
        inner = inner.dataset
    create: Callable = create_patch_loader if args.naflex_loader else create_loader
    shape = eval_patches(args, data_config) if args.naflex_loader else dict(input_size=data_config['input_size'])
    return create(
        Selection(copy.copy(inner), samples),  # a copy, for it gets another transform
        batch_size=args.validation_batch_size or args.batch_size,
        is_training=False,
        interpolation=data_config['interpolation'],
        mean=data_config['mean'],
        std=data_config['std'],
        crop_pct=data_config['crop_pct'],
        num_workers=args.workers,
        pin_memory=args.pin_mem,
        persistent_workers=False,
        img_dtype=forward.dtype,
        device=forward.device,
        use_prefetcher=args.prefetcher,
        **shape,
    )
