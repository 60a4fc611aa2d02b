"""What a training run's augmentations would do to its own images, on one sheet, without training.

    python -m keepaug.preview --data-dir /data/imagenet --model resnet50 --keep-cut --keep-size 60 \
        --preview-checkpoint output/train/RUN/last.pth.tar

Takes the flags of `train.py` and follows its way from images to an augmented batch. Beside the sheet it prints how much
of the saliency lies in what is removed or put back, which is what `--keep-size` and `--keep-tau` are chosen by: the
same seed shows the same crops whatever these are.
"""

import argparse
import logging
import os
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
from keepaug.files.drafts import whole_file
from keepaug.measuring.regions import bare_model, measure, run_steps
from keepaug.methods import outside_training, wrap_loader
from keepaug.pictures.record import Record, draw_sheet, label_captions, share_table
from keepaug.training.early_exit_task import find_early_exit

_logger = logging.getLogger('train')


def main(argv: Sequence[str] | None = None) -> None:
    setup_default_logging()
    parser = create_parser()
    args, _ = options.parse_args(parser, argv)
    args = outside_training(keepaug.prepare(args))
    options.check_stock(args)
    check_preview(args)
    data.check_data_folder(args.dataset, args.data_dir or args.data, {'--train-split': args.train_split})
    if args.check:
        _logger.info('The flags fit together.')
        return
    record = record_batch(args)
    shares = [measure(step) for step in record.steps if step.mask is not None]
    sheet = draw_sheet(record, shares)
    with whole_file(args.preview_output, typed=True) as draft:
        sheet.save(draft)
    if shares:
        Console(width=110).print(share_table(shares, args.preview_images))
    print(f'Sheet: {args.preview_output}')


def create_parser() -> argparse.ArgumentParser:
    """The parser of `train.py` with the flags of the preview."""
    parser = options.create_parser()
    parser.description = __doc__.splitlines()[0]
    add = parser.add_argument_group('preview').add_argument
    add('--preview-images', type=int, default=16, metavar='N', help='images on the sheet')
    add('--preview-output', default='preview.png', metavar='FILE', help='picture to write')
    add(
        '--preview-checkpoint',
        metavar='FILE',
        help='training checkpoint whose weights measure saliency, early head included; as --resume',
    )
    return parser


def check_preview(args: argparse.Namespace) -> None:
    """Checks the flags of the preview.

    Raises:
        ValueError: One sentence for the user.
    """
    output = args.preview_output
    folder, suffix = os.path.dirname(output) or '.', os.path.splitext(output)[1].lower()
    if args.preview_images < 1:
        raise ValueError(f'--preview-images {args.preview_images} is too small: give at least 1.')
    if args.preview_checkpoint and args.resume:
        raise ValueError(
            f'--preview-checkpoint {args.preview_checkpoint} and --resume {args.resume} both give weights: drop one.'
        )
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise ValueError(f'--preview-output {output} names no format of pictures: end it in .png or .jpg.')
    if os.path.isdir(output) or not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        raise ValueError(f'--preview-output {output} cannot be written: name a file in a folder that exists.')


def record_batch(args: argparse.Namespace) -> Record:
    """Takes one batch through the run's data path and augmentations.

    Args:
        args: Options of `train.py` and of the preview, checked and prepared.

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

    # Again, so that models and flags which draw more or fewer numbers on the way get the same images.
    training.seed_everything(args)
    x, target = forward.place_batch(*next(iter(loader)))
    if mixup_fn is not None:
        x, target = mixup_fn(x, target)
    augment = getattr(task, 'augment', None)
    rows = min(args.preview_images, len(x) // getattr(augment, 'rows_per_sample', 1))
    with forward.autocast():
        steps, labels = run_steps(augment.augments if augment else (), x, target, rows, bare_model(task))
    if not steps:
        _logger.info('No augmentation of keepaug is on: the sheet shows what the loader gives.')
    mean, std = (adapt_to_chs(data_config[name], x.shape[1]) for name in ('mean', 'std'))
    captions = list(label_captions(labels, name_classes(args.class_to_idx)))
    return Record(f'{args.model}, {source}', x[:rows], steps, captions, mean, std)


def even_batch_size(images: int, dataset) -> int:
    """A batch that holds so many images, if there are, and pairs up: stock's mixing wants even batches."""
    size = images + images % 2
    if hasattr(dataset, '__len__'):
        size = min(size, len(dataset) // 2 * 2 or 1)
    return size


def load_weights(args: argparse.Namespace, task: TrainingTask) -> str:
    """Gives a task the weights of `--preview-checkpoint` or `--resume`, and says in words where its weights are from.

    Raises:
        ValueError: The checkpoint cannot be read, or is of another model.
    """
    early = find_early_exit(task)
    head = None if early is None else unwrap_model(early.get_trainable_module()).head.weight
    drawn = None if head is None else head.detach().clone()
    for flag, path in ('--preview-checkpoint', args.preview_checkpoint), ('--resume', args.resume):
        if path:
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
    return source if head is None or not torch.equal(head, drawn) else f'{source}, its early head untrained'


def load_checkpoint(args: argparse.Namespace, task: TrainingTask, path: str, flag: str) -> None:
    """Restores the weights of a training checkpoint, those of an early head included.

    Raises:
        ValueError: The checkpoint cannot be read, or is of another model; `flag` named it.
    """
    if path.endswith('.safetensors'):
        raise ValueError(f'{flag} {path} is no training checkpoint: give plain weights with --initial-checkpoint.')
    check_checkpoint(path, flag)
    try:
        resume_task_checkpoint(task, path, log_info=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f'{flag} {path} does not fit --model {args.model} with {args.num_classes} classes '
            f'({first_line(error)}); give the flags of the run that wrote it.'
        ) from error


if __name__ == '__main__':
    explain_errors(main)
