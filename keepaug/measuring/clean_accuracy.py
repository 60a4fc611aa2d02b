"""How well training images are known as they are: the accuracy on some of them, read as validation images are."""
import logging
from collections import OrderedDict

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.utils.data import IterableDataset

from keepaug.data.seeding import preserved_streams
from keepaug.functional.saliency import in_eval_mode
from keepaug.measuring.risks import choose_samples, clean_batches
from keepaug.training.loop import LoopSettings

_logger = logging.getLogger('train')


class CleanAccuracy:
    """Measures a model in eval mode on fixed training images; model, statistics and random streams stay as they are.

    Args:
        batches: The images, as `clean_batches` gives them.
        settings: How the run brings batches to the device.
        seed: For what workers draw.
    """

    def __init__(self, batches, settings: LoopSettings, seed: int = 0):
        self.batches = batches
        self.settings = settings
        self.seed = seed

    def measure(self, task: TrainingTask) -> OrderedDict[str, float]:
        """What the task's evaluator reports, behind `clean_train_`: `loss`, `top1` and `top5` in percent, or `map`."""
        model, evaluator = unwrap_model(task.get_eval_model()), task.create_evaluator()
        with preserved_streams(self.settings.device, self.seed), in_eval_mode(model), torch.no_grad():
            for input, target in self.batches:
                input, target = self.settings.to_device(input, target)
                with self.settings.precision.autocast():
                    output = model(self.settings.in_layout(input))
                evaluator.update(output[0] if isinstance(output, (tuple, list)) else output, target)
        # The first process measures alone: no collective.
        return OrderedDict((f'clean_train_{name}', value) for name, value in evaluator.compute().items())


def build_clean_accuracy(args, dataset, data_config, settings: LoopSettings) -> CleanAccuracy | None:
    """The measurement on `--watch-samples` training images; None without them, and where the data set is a stream.

    Args:
        args: Options.
        dataset: The run's training set.
        data_config: How images enter the model.
        settings: How the run brings batches to the device.
    """
    if not args.watch_samples:
        return None
    if isinstance(dataset, IterableDataset):
        _logger.info('The clean training accuracy is left out: single images cannot be asked of this data set.')
        return None
    samples = choose_samples(dataset, args.watch_samples, args.seed)
    return CleanAccuracy(clean_batches(args, dataset, samples, data_config, settings), settings, args.seed)
