"""Unsupervised data augmentation (Xie et al., 2019; KeepAugment, section 4.3): `--uda`."""

import argparse
import logging
from collections.abc import Iterator
from typing import Any

from timm.task import TrainingTask
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from keepaug.augment import Compose, Policy
from keepaug.augment.recycled import RECYCLED
from keepaug.console.processes import is_first_process, process_count, process_rank
from keepaug.data.checks import STREAMS, check_image_folder, count_classes
from keepaug.data.sets import open_image_folder
from keepaug.data.transform import TransformChanges, change_transform, find_changes
from keepaug.data.unlabelled import (
    EPOCHS,
    LABELLED,
    UNLABELLED,
    GroupedSamples,
    choose_labels,
    find_groups,
    list_labels,
    sample_groups,
)
from keepaug.functional.consistency import ANNEALING
from keepaug.methods.method import Flag, Method, Need, Refusal, spell, typed
from keepaug.methods.registry import active_methods
from keepaug.methods.stock_mixing import stock_mixers
from keepaug.ranges import COUNT, HyperParameterError, Range
from keepaug.training.consistency_task import TEMPERATURE, THRESHOLD, AnnealedCrossEntropy, ConsistencyTask

_logger = logging.getLogger('train')

NO_ANNEALING = 'none'
LOSSES = ('ce', 'poly')  # of one label per image, by softmax
LABELS_FILE = 'uda-labels.csv'
DROP = 'drop one of the two'


class UdaMethod(Method):
    """Trains on few labels and on all images: what is said of an image is to be said of its augmented copy too."""

    name = 'uda'
    title = 'UDA: learn from images without labels'
    switch = Flag(
        '--uda',
        help='add unlabelled images to each labelled one, before and after --aa (and --keep-paste), and train the '
        'network to predict the same for both',
    )
    # Ratio, temperature and threshold are those of UDA's published code for CIFAR-10, where a step is of 64 labelled
    # and 448 unlabelled images, the weight is 1 and labels are not annealed.
    settings = (
        Flag(
            '--uda-labels',
            type=int,
            metavar='N',
            range=COUNT,
            help='number of labels to use from the training set, as evenly from the classes as possible, drawn by '
            '--seed; all its images are used without labels; unset: all labels',
        ),
        Flag(
            '--uda-data-dir',
            type=str,
            metavar='DIR',
            resumable=True,
            help='folder of further images without labels',
        ),
        Flag(
            '--uda-ratio',
            type=int,
            default=7,
            metavar='N',
            range=COUNT,
            help='unlabelled images per labelled image of a batch; --batch-size counts the labelled ones',
        ),
        Flag(
            '--uda-weight',
            type=float,
            default=1.0,
            metavar='W',
            range=Range(least=0),
            help='weight of the loss on unlabelled images; 0: the control, which trains as many steps on the '
            'labelled images alone, cropped and flipped',
        ),
        Flag(
            '--uda-temperature',
            type=float,
            default=TEMPERATURE,
            metavar='T',
            range=Range(above=0),
            help='divides the logits of unlabelled images to sharpen their target; 1: not sharpened',
        ),
        Flag(
            '--uda-threshold',
            type=float,
            default=THRESHOLD,
            metavar='P',
            range=Range(least=0, below=1),
            help='an unlabelled image counts only if its largest probability, before sharpening, exceeds this',
        ),
        Flag(
            '--uda-tsa',
            type=str,
            default=NO_ANNEALING,
            choices=(NO_ANNEALING, *ANNEALING),
            help='leave out labelled images whose label has a probability above a threshold, which rises from chance '
            'to 1 with every update of the scheduled epochs: linear, early (log) or late (exp)',
        ),
        Flag(
            '--uda-epoch',
            type=str,
            default=UNLABELLED,
            choices=EPOCHS,
            help='which images make up an epoch',
        ),
    )
    needs = Need.IMAGES | Need.WHOLE_BATCHES | Need.OWN_SCRIPT
    pictures = {}
    region = 'put back'
    keeps_region = True
    example = '--uda --uda-labels 12 --uda-ratio 2 --aa rand-m9-mstd0.5'

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        """Labelled images are cropped and flipped alone; beside unlabelled ones the pairs see to that."""
        colours = ('color_jitter', 'grayscale_prob', 'gaussian_blur_prob')
        return dict.fromkeys(colours, 0.0) if args.uda_weight == 0 else {}

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        if args.uda_weight > 0:
            return {}
        names = ('uda_temperature', 'uda_threshold', 'uda_tsa', 'uda_data_dir')
        names = (*names, 'aa') if args.uda_epoch == UNLABELLED else (*names, 'aa', 'uda_ratio')
        return dict.fromkeys(names, 'with --uda-weight 0, which reads no unlabelled images')

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        loss = args.loss or LOSSES[0]
        for flag, on, why in (
            (
                f'--dataset {args.dataset}',
                args.dataset.lower().startswith(STREAMS),
                'is a stream of images without numbers',
            ),
            ('--task multilabel', args.task == 'multilabel', 'has several labels per image'),
            (f'--loss {loss}', loss not in LOSSES, 'is not a softmax loss of one label'),
            (f'--kd-model-name {args.kd_model_name}', bool(args.kd_model_name), 'has a loss of its own for all images'),
            ('--train-img-sizes', bool(args.train_img_sizes), 'takes the transform out of the data set'),
            (
                f'--aug-repeats {args.aug_repeats:g}',
                args.aug_repeats > 0,
                'distributes its samples among the processes itself',
            ),
            (f'--epoch-repeats {args.epoch_repeats:g}', args.epoch_repeats > 0, 'changes the meaning of an epoch'),
            ('--no-aug', args.no_aug, 'leaves no policy to make the second image'),
        ):
            yield on, self._beside(flag, why)
        yield (
            args.uda_tsa != NO_ANNEALING and loss != LOSSES[0],
            f'--uda-tsa {args.uda_tsa} anneals the cross entropy, not --loss {loss}: {DROP}.',
        )
        for name in stock_mixers(args):
            yield True, self._beside(spell(name), 'mixes labels, which unlabelled images lack')
        others = [method for method in active_methods(args) if method is not self]
        for other in others:
            flag = other.spelled(args)
            yield other.mixes_labels(args), self._beside(flag, 'mixes labels, which unlabelled images lack')
            if args.uda_weight == 0:
                yield other.on_batches, f'{flag} has no effect with --uda-weight 0, which augments no image: drop it.'
        for flag, on in (
            (f'--augment-copies {args.augment_copies}', args.augment_copies > 1),
            (f'--joint-occlusion {args.joint_occlusion}', args.joint_occlusion is not None),
        ):
            yield on, self._beside(flag, 'puts every image into the batch several times')
        yield args.keep_saliency == RECYCLED, self._beside(f'--keep-saliency {RECYCLED}', 'needs the loss of labels')
        yield (
            typed(args, 'reprob') > 0 and not any('reprob' in other.takes_over(args) for other in others),
            self._beside(
                f'--reprob {typed(args, "reprob"):g}',
                'erases labelled images too',
                f'{DROP}, or add --keep-paste or --keep-cut erase, which erase the second image',
            ),
        )
        yield (
            args.uda_epoch == LABELLED and args.uda_labels is not None and args.uda_labels < args.batch_size,
            f'--uda-epoch {LABELLED} passes over the images of --uda-labels {args.uda_labels} alone, fewer than one '
            f'batch: lower --batch-size {args.batch_size}, or leave out --uda-epoch.',
        )
        yield (
            not args.aa and args.uda_weight > 0,
            '--uda needs a policy to make the second image: add --aa, such as rand-m9-mstd0.5.',
        )

    def _beside(self, flag: str, why: str, way_out: str = DROP) -> str:
        return f'--uda does not work with {flag}, which {why}: {way_out}.'

    def check_data(self, args: argparse.Namespace) -> None:
        if args.uda_data_dir is not None:
            check_image_folder('--uda-data-dir', args.uda_data_dir)
        classes = None if args.uda_labels is None else count_classes(args)
        if classes is not None and args.uda_labels < classes:
            raise ValueError(
                f'--uda-labels must be at least {classes}, one label of each class, got {args.uda_labels}.'
            )

    def outside_training(self, args: argparse.Namespace) -> dict[str, Any]:
        """Every image once, with its label: which images a run has seen labels of is nothing that pictures show."""
        return dict(uda_labels=None, uda_data_dir=None, uda_ratio=1, uda_epoch=UNLABELLED)

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        changes.paired = args.uda_weight > 0

    def wrap_dataset(self, dataset: Dataset, args: argparse.Namespace) -> Dataset:
        if isinstance(dataset, IterableDataset):
            raise ValueError(self._beside(f'--dataset {args.dataset}', 'is a stream of images without numbers'))
        further = None
        if args.uda_data_dir is not None:
            mode = getattr(dataset, 'input_img_mode', None) or 'RGB'
            further = open_image_folder(args.uda_data_dir, mode, '--uda-data-dir')
            further = change_transform(further, find_changes(dataset))
        try:
            chosen = choose_labels(dataset, args.uda_labels, args.seed)
        except HyperParameterError as error:
            raise ValueError(error.named('--uda-labels')) from error
        return GroupedSamples(dataset, chosen, args.uda_ratio, args.uda_epoch, further, args.uda_weight == 0)

    def wrap_loader(self, loader, dataset: Dataset, args: argparse.Namespace):
        samples = find_groups(dataset)
        if samples is None:
            raise ValueError('--uda needs a loader of the data set that keepaug.wrap_dataset gives.')
        sample_groups(loader, samples, process_rank(), process_count())
        if is_first_process():
            labels = len(samples.chosen.numbers)
            beside = '' if samples.labels_only else f' and {args.batch_size * samples.ratio} unlabelled ones'
            passed = f'{samples.images} unlabelled' if samples.epoch == UNLABELLED else f'{labels} labelled'
            _logger.info(
                f'UDA: {labels} labels. An epoch is a pass over the {passed} images, {len(loader)} '
                f'batch{"es" if len(loader) > 1 else ""} of {args.batch_size} labelled images{beside}.'
                + (' A batch holds some of the labelled images several times.' if labels < args.batch_size else '')
            )
        return loader

    def augment_task(self, task: TrainingTask, augment: Compose, args: argparse.Namespace) -> ConsistencyTask:
        annealed = None
        if args.uda_tsa != NO_ANNEALING:
            annealed = AnnealedCrossEntropy(args.uda_tsa, args.smoothing)
        return ConsistencyTask(
            task, augment, args.uda_ratio, args.uda_weight, args.uda_temperature, args.uda_threshold, annealed
        )

    def build(self, args: argparse.Namespace, model: nn.Module) -> Policy | None:
        return None if args.uda_weight == 0 or args.keep_paste else Policy()

    def records(self, dataset: Dataset, args: argparse.Namespace) -> dict[str, str]:
        return {LABELS_FILE: list_labels(dataset)}

    def describe(self, args: argparse.Namespace) -> str:
        if args.uda_weight == 0:
            return 'only the labelled images, cropped and flipped'
        annealed = '' if args.uda_tsa == NO_ANNEALING else f', labels annealed ({args.uda_tsa})'
        return (
            f'{args.uda_ratio} unlabelled per labelled image, weight {args.uda_weight:g}, temperature '
            f'{args.uda_temperature:g}, threshold {args.uda_threshold:g}{annealed}; labelled images are only cropped '
            'and flipped'
        )
