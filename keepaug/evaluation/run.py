"""From the flags of validate.py to the evaluations they name."""

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.data.loader import adapt_to_chs
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from keepaug import validation
from keepaug.console.processes import process_count, process_rank
from keepaug.console.progress import Progress
from keepaug.data.checks import has_split_folders
from keepaug.data.classes import ClassList, dataset_classes
from keepaug.data.folders import find_split
from keepaug.data.sets import open_image_folder
from keepaug.evaluation.boxes import TrueBoxes
from keepaug.evaluation.data import Data, PassSettings
from keepaug.evaluation.fgsm import fgsm
from keepaug.evaluation.in_between import in_between
from keepaug.evaluation.localization import localization
from keepaug.evaluation.occlusion import occlusion
from keepaug.evaluation.ood import name_sets, ood
from keepaug.evaluation.report import Gallery, Report
from keepaug.evaluation.risk import risk
from keepaug.evaluation.spectrum import check_spectrum, spectrum
from keepaug.evaluation.subject import Subject
from keepaug.files.checkpoints import check_checkpoint
from keepaug.measuring.replay import AugmentedBatches, build_augmented, check_replay
from keepaug.options.recorded import read_recorded
from keepaug.training.forward import Forward

_logger = logging.getLogger('validate')


def _localization(args, subject: Subject, data: Data) -> Callable[[], Report]:
    transform = data.validation('localization').loader.dataset.transform
    boxes = TrueBoxes(data.dataset, transform, args.gt_boxes)
    return partial(localization, subject, data.validation('localization', boxes.numbers), boxes, args.cam_threshold)


def _ood(args, subject: Subject, data: Data) -> Callable[[], Report]:
    folders = {name: data.folder(path, f'ood {name}') for name, path in name_sets(args.ood_data_dir).items()}
    return partial(ood, subject, data.validation('ood'), folders, args.odin_temperature, args.odin_eps)


def _spectrum(args, subject: Subject, data: Data) -> Callable[[], Report]:
    check_spectrum(subject, args.spectrum_class)
    return partial(spectrum, subject, data.training('spectrum'), args.spectrum_class)


# By the name that `--evaluate` knows it by: opens what it looks at, and gives the evaluation itself.
EVALUATIONS: dict[str, Callable[[Any, Subject, Data], Callable[[], Report]]] = {
    'localization': _localization,
    'fgsm': lambda args, subject, data: partial(fgsm, subject, data.validation('fgsm'), args.fgsm_eps),
    'occlusion': lambda args, subject, data: partial(occlusion, subject, data.validation('occlusion')),
    'in-between': lambda args, subject, data: partial(
        in_between, subject, data.validation('in-between'), data.partners()
    ),
    'ood': _ood,
    'risk': lambda args, subject, data: partial(
        risk, subject, data.training('risk'), data.augmented(subject, 'risk, augmented')
    ),
    'spectrum': _spectrum,
}


def check_evaluations(args) -> None:
    """Says before any image is read what a checkpoint lacks for `--evaluate`.

    Raises:
        ValueError: It lacks something.
    """
    if 'risk' in (args.evaluate or ()):
        check_replay(_read_run(args)[0])


def _read_run(args) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The training run's arguments, and its checkpoint."""
    flag = args.named_by or '--checkpoint'
    checkpoint = {}
    if args.checkpoint:
        checkpoint = check_checkpoint(args.checkpoint, flag, averaged=args.use_ema, arrays=True)
    return read_recorded(checkpoint, args.checkpoint, args.risk_args), checkpoint


def open_evaluations(args, subject: Subject, data: Data) -> dict[str, Callable[[], Report]]:
    """The evaluations of `--evaluate` in their order, ready to run: what they look at is open, no image is read yet.

    Raises:
        ValueError: An evaluation is impossible for this model or these images.
    """
    return {name: EVALUATIONS[name](args, subject, data) for name in dict.fromkeys(args.evaluate)}


def run_evaluations(
    evaluations: dict[str, Callable[[], Report]],
    subject: Subject,
    gallery: Gallery | None = None,
) -> dict[str, float]:
    """Runs evaluations one after the other; each is dropped when it is done, and the workers of its loaders with it.

    Returns:
        What they found, as columns of a row of results.

    Raises:
        ValueError: An evaluation is impossible for this model or these images, or a picture cannot be written.
    """
    columns = {}
    for name in list(evaluations):
        report = evaluations.pop(name)()
        columns.update(report.columns())
        if subject.rank == 0:
            _logger.info(report.describe())
            # What numbers mean is said of the first classifier.
            if gallery is None or report.evaluation not in gallery.reports:
                _logger.info(f'{name}: {report.note}')
            if gallery is not None:
                gallery.add(subject.name, report)
    return columns


def build_subject(
    args,
    model: nn.Module,
    bare: nn.Module,
    data_config: dict[str, Any],
    forward: Forward,
    classes: list[int] | None,
    names: list[str] | None,
) -> Subject:
    """The classifier that validate.py has loaded."""
    mean, std = (
        torch.tensor(adapt_to_chs(data_config[key], data_config['input_size'][0]), device=forward.device).view(
            1, -1, 1, 1
        )
        for key in ('mean', 'std')
    )
    return Subject(
        args.label or args.model,
        model.eval(),
        bare.eval(),
        mean,
        std,
        forward=forward,
        classes=classes,
        names=names,
        seed=args.seed,
        rank=process_rank(),
        world_size=process_count(),
    )


def build_data(
    args,
    dataset: Dataset,
    make_loader: Callable[[Dataset], Any],
    data_config: dict[str, Any],
    forward: Forward,
    progress: Progress,
) -> Data:
    """The images that the flags name.

    Raises:
        ValueError: Single images cannot be asked of the data set.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f'--evaluate needs single images, which --dataset {args.dataset} cannot give: name a data set with random '
            'access, such as an image folder.'
        )

    def open_folder(path: str) -> Dataset:
        return open_image_folder(path, args.input_img_mode or 'RGB', '--ood-data-dir')

    root, numbers = args.data or args.data_dir, dataset_classes(dataset)
    classes = ClassList(numbers, 'the validation split') if numbers and not args.class_map else None

    def open_training() -> Dataset:
        among_folders = has_split_folders(args.dataset, root) and not args.split.startswith('train')
        if among_folders and not find_split(root, 'train'):
            raise ValueError(
                f'The folder {root} holds no training images, which --evaluate risk and spectrum need: give a folder '
                f'in which they lie beside those of --split {args.split}, as train.'
            )
        return validation.build_split(args, 'train', data_config, classes)

    def open_augmented(subject: Subject, choose: Callable[[Dataset], Sequence[int]]) -> AugmentedBatches:
        recorded, checkpoint = _read_run(args)
        return build_augmented(args, recorded, subject.bare, checkpoint, data_config, forward, choose, classes)

    return Data(
        dataset,
        make_loader,
        open_training=open_training,
        open_folder=open_folder,
        open_augmented=open_augmented,
        forward=forward,
        samples=args.eval_samples,
        seed=args.seed,
        settings=PassSettings(args.log_freq, process_rank(), process_count(), progress),
    )
