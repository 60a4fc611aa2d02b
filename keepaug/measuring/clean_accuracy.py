"""How well training images are known as they are: the accuracy on some of them, read as validation images are."""

import logging
from collections import OrderedDict

from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.utils.data import IterableDataset

from keepaug.data.seeding import preserved_streams
from keepaug.functional.saliency import in_eval_mode
from keepaug.measuring.risks import choose_samples, clean_batches
from keepaug.training.forward import Forward
from keepaug.training.validation_pass import validate

_logger = logging.getLogger('train')


class CleanAccuracy:
    """Measures a model in eval mode on fixed training images; model, statistics and random streams stay as they are.

    Args:
        batches: The images, as `clean_batches` gives them.
        forward: How batches reach the model.
        seed: For what workers draw.
    """

    def __init__(self, batches, forward: Forward, seed: int = 0):
        self.batches = batches
        self.forward = forward
        self.seed = seed

    def measure(self, task: TrainingTask) -> OrderedDict[str, float]:
        """What the task's evaluator reports, behind `clean_train_`: `loss`, `top1` and `top5` in percent, or `map`."""
        model = unwrap_model(task.get_eval_model())
        with preserved_streams(self.forward.device, self.seed), in_eval_mode(model):
            # The first process measures alone, and the bare model: no collective.
            metrics = validate(model, self.batches, task.create_evaluator(), self.forward)
        return OrderedDict((f'clean_train_{name}', value) for name, value in metrics.items())


def build_clean_accuracy(args, dataset, data_config, forward: Forward) -> CleanAccuracy | None:
    """The measurement on `--watch-samples` training images; None without them, and where the data set is a stream.

    Args:
        args: Options.
        dataset: The run's training set.
        data_config: How images enter the model.
        forward: How batches reach the model.
    """
    if not args.watch_samples:
        return None
    if isinstance(dataset, IterableDataset):
        _logger.info('The clean training accuracy is left out: this data set cannot give single images.')
        return None
    samples = choose_samples(dataset, args.watch_samples, args.seed)
    return CleanAccuracy(clean_batches(args, dataset, samples, data_config, forward), forward, args.seed)
