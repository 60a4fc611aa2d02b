"""What a training run's augmentations would do to its own images, on one sheet, without training.

    keepaug-preview --data-dir /data/imagenet --model resnet50 --pretrained --keep-cut \
        --preview-statistics 256 --preview-sizes 40 60 80 --preview-taus 0.3 0.6

or, in a checkout, `python -m keepaug.preview`. Takes the flags of `train.py` and follows its way from images to an
augmented batch. Beside the sheet it prints how much of the saliency lies in what is removed or put back, with keep-cut
and keep-paste beside the same windows drawn blindly. Choose `--keep-size` and `--keep-tau` by that: the same seed shows
the same crops whatever these are.
"""

import argparse
import logging
import os
import shlex
from collections.abc import Sequence

import torch
from PIL import Image
from rich.console import Console
from timm import create_model
from timm.data.loader import adapt_to_chs
from timm.task import ClassificationTask, TrainingTask, resume_task_checkpoint
from timm.utils import setup_default_logging, unwrap_model

import keepaug
from keepaug import data, options, training
from keepaug.console.errors import explain_errors, first_line
from keepaug.data.classes import name_classes
from keepaug.files.checkpoints import check_checkpoint
from keepaug.files.outputs import check_output_file, output_file
from keepaug.installation import command
from keepaug.measuring.regions import bare_model, run_steps
from keepaug.measuring.windows import RegionStatistics, build_trials
from keepaug.methods import KeepMethod, active_methods, outside_training, wrap_loader
from keepaug.methods.keep_region import SIZE, TAU, tau
from keepaug.models.loading import UNFIT
from keepaug.pictures.record import Record, draw_sheet, label_captions, share_table
from keepaug.training.early_exit_task import find_early_exit

_logger = logging.getLogger('train')


def main(argv: Sequence[str] | None = None) -> None:
    setup_default_logging()
    parser = create_parser()
    args, _ = options.parse_args(parser, argv)
    args = outside_training(keepaug.prepare(args))
    data.check_data_folder(args.dataset, args.data_dir or args.data, {'--train-split': args.train_split})
    options.check_stock(args)
    check_preview(args)
    if args.check:
        _logger.info('The flags fit together. The model is not built and no image is read by --check.')
        return
    record, statistics = look(args)
    sheet = draw_sheet(record, statistics.of_run())
    with output_file(args.preview_output, '--preview-output') as draft:
        sheet.save(draft)
    if rows := statistics.rows():
        Console(width=120).print(share_table(rows, statistics.images))
    print(f'Sheet: {args.preview_output}')


def create_parser() -> argparse.ArgumentParser:
    """The parser of `train.py` with the flags of the preview."""
    parser = options.create_parser()
    parser.prog = shlex.join(command('preview'))
    parser.description = __doc__.splitlines()[0]
    training = parser.count
    add = parser.add_argument_group('preview').add_argument
    add('--preview-images', type=int, default=16, metavar='N', help='images on the sheet')
    add('--preview-output', default='preview.png', metavar='FILE', help='picture to write')
    add(
        '--preview-checkpoint',
        metavar='FILE',
        help='training checkpoint whose weights measure saliency, early head included; as --resume',
    )
    add(
        '--preview-statistics',
        type=int,
        metavar='N',
        help='images that shares of saliency are measured on; unset: those on the sheet',
    )
    add(
        '--preview-sizes',
        type=int,
        nargs='+',
        default=[],
        metavar='PX',
        help='values of --keep-size to measure too, a row of the table each',
    )
    add(
        '--preview-taus',
        type=tau,
        nargs='+',
        default=[],
        metavar='SHARE',
        help='values of --keep-tau to measure too, each with each of the sizes',
    )
    parser.show_first(training)
    example = '--data-dir /data/birds --model resnet50 --pretrained --keep-cut --preview-sizes 16 40 64'
    parser.epilog = f'example: {parser.prog} {example}'
    return parser


def check_preview(args: argparse.Namespace) -> None:
    """Checks the flags of the preview.

    Raises:
        ValueError: One sentence for the user.
    """
    output = args.preview_output
    suffix = os.path.splitext(output)[1].lower()
    if args.preview_statistics is not None and args.preview_statistics < args.preview_images:
        raise ValueError(
            f'--preview-statistics {args.preview_statistics} is fewer than the {args.preview_images} images of '
            '--preview-images: raise the one or lower the other.'
        )
    check_windows(args)
    if args.preview_checkpoint and args.resume:
        raise ValueError(
            f'--preview-checkpoint {args.preview_checkpoint} and --resume {args.resume} both give weights: drop one.'
        )
    for flag, path in given_checkpoints(args):
        check_checkpoint(path, flag, of_run=True)
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise ValueError(f'--preview-output {output} names no format of pictures: end it in .png or .jpg.')
    check_output_file(output, '--preview-output')


def check_windows(args: argparse.Namespace) -> None:
    """Checks the sizes and quantiles to try.

    Raises:
        ValueError: One sentence for the user.
    """
    on = keep_methods(args)
    for flag, values, option in (
        (SIZE, args.preview_sizes, '--preview-sizes'),
        (TAU, args.preview_taus, '--preview-taus'),
    ):
        if values and not on:
            raise ValueError(f'{option} is of windows that are drawn by saliency: add --keep-cut or --keep-paste.')
        for value in values:
            problem = flag.problem(argparse.Namespace(**{**vars(args), flag.dest: value}))
            if problem:
                raise ValueError(problem.replace(flag.option, option, 1))
    if args.preview_sizes and all(method.draws_size(args) for method in on):
        raise ValueError(f'--preview-sizes has no effect with {on[0].spelled(args)}, whose size is drawn: drop it.')


def keep_methods(args: argparse.Namespace) -> list[KeepMethod]:
    """The methods that are on and draw windows by saliency."""
    return [method for method in active_methods(args) if isinstance(method, KeepMethod)]


def look(args: argparse.Namespace) -> tuple[Record, RegionStatistics]:
    """Takes batches through the run's data path and augmentations.

    Args:
        args: Options of `train.py` and of the preview, checked and prepared.

    Returns:
        The images of the sheet, and what was measured on them and on those of `--preview-statistics`.

    Raises:
        ValueError: Something cannot be built as the flags ask.
    """
    args.prefetcher = not args.no_prefetcher
    args.smoothing = 0.0  # so that targets are the shares that mixing gives
    args.workers = 0  # one batch comes sooner without
    training.import_device_modules(args)
    device = training.open_device(args)
    forward = training.build_forward(args, device)
    training.seed_everything(args)

    model, data_config = training.build_model(args, create_model)
    model = training.place_model(model, args, forward)
    dataset = keepaug.wrap_dataset(data.build_train_dataset(args, data_config), args)
    args.batch_size = even_batch_size(args.preview_images, dataset)
    mixup_fn, collate_fn = data.build_mixing(args)
    loader = data.build_train_loader(args, dataset, data_config, device, forward.dtype, collate_fn)
    loader = wrap_loader(loader, dataset, args)
    # Without the teacher or the criterion of the run: augmentations look at the model alone.
    task = ClassificationTask(model, device=device, dtype=forward.dtype, verbose=False)
    task = keepaug.wrap_task(task, args)
    training.set_progress(task, epoch=1, epochs=2)  # what grows with the training is shown as it is at the end
    source = load_weights(args, task)
    _logger.info(f'Saliency is that of {source}.')
    task.train()
    bare, augment = bare_model(task), getattr(task, 'augment', None)
    statistics = RegionStatistics(
        {
            method.name: build_trials(
                args,
                method,
                unwrap_model(task.get_eval_model()),
                bare,
                data_config['input_size'][1:],
                args.preview_sizes,
                args.preview_taus,
            )
            for method in keep_methods(args)
        }
    )
    if not augment:
        _logger.info('No augmentation of keepaug is on: the sheet shows what the loader gives.')

    # Again, so that models and flags which draw more or fewer numbers on the way get the same images.
    training.seed_everything(args)
    wanted, record = args.preview_statistics or args.preview_images, None
    for x, target in loader:
        x, target = forward.place_batch(x, target)
        if mixup_fn is not None:
            x, target = mixup_fn(x, target)
        x, target = training.augmented_part(task, x, target)
        rows = min(wanted - statistics.images, len(x) // getattr(augment, 'rows_per_sample', 1))
        with forward.autocast():
            steps, labels = run_steps(augment.augments if augment else (), x, target, rows, bare)
            if record is None:
                captions = list(label_captions(labels, name_classes(args.class_to_idx), rows))
                mean, std = (adapt_to_chs(data_config[name], x.shape[1]) for name in ('mean', 'std'))
                record = Record(f'{args.model}, {source}', x[:rows], steps, captions, mean, std)
            statistics.add(steps, rows, args.seed + statistics.images)
        if statistics.images >= wanted:
            break
    if record is None:
        raise ValueError('The training loader gives no batch, so there is nothing to show.')
    return record.first(args.preview_images), statistics


def even_batch_size(images: int, dataset) -> int:
    """A batch that holds so many images, if there are, and pairs up: stock's mixing wants even batches."""
    size = images + images % 2
    if hasattr(dataset, '__len__'):
        size = min(size, len(dataset) // 2 * 2 or 1)
    return size


def given_checkpoints(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Flags that name a training checkpoint, with the file."""
    named = (('--preview-checkpoint', args.preview_checkpoint), ('--resume', args.resume))
    return [(flag, path) for flag, path in named if path]


def load_weights(args: argparse.Namespace, task: TrainingTask) -> str:
    """Gives a task the weights of `--preview-checkpoint` or `--resume`, and says in words where its weights are from.

    Raises:
        ValueError: The checkpoint is of another model.
    """
    early = find_early_exit(task)
    head = None if early is None else unwrap_model(early.get_trainable_module()).head.weight
    drawn = None if head is None else head.detach().clone()
    for flag, path in given_checkpoints(args):
        load_checkpoint(args, task, path, flag)
    path = args.preview_checkpoint or args.resume or args.initial_checkpoint
    if path:
        source = f'weights of {path}'
    elif args.pretrained:
        source = 'pretrained weights'
        if getattr(bare_model(task), 'pretrained_cfg', {}).get('num_classes') != args.num_classes:
            source += ', its classifier untrained'
    else:
        return 'an untrained model, whose saliency tells nothing of the label'
    untrained = head is not None and drawn is not None and torch.equal(head, drawn)
    return f'{source}, its early head untrained' if untrained else source


def load_checkpoint(args: argparse.Namespace, task: TrainingTask, path: str, flag: str) -> None:
    """Restores the weights of a training checkpoint, those of an early head included.

    Raises:
        ValueError: The checkpoint, which `flag` named, is of another model.
    """
    try:
        resume_task_checkpoint(task, path, log_info=False)
    except UNFIT as error:
        raise ValueError(
            f'{flag} {path} does not fit --model {args.model} with {args.num_classes} classes '
            f'({first_line(error)}); give the flags of the run that wrote it.'
        ) from error


if __name__ == '__main__':
    explain_errors(main)
