"""What a training run's augmentations would do to its own images, on one sheet, without training.

    python -m keepaug.preview --data-dir /data/imagenet --model resnet50 --keep-cut --keep-size 60 \
        --preview-checkpoint output/train/RUN/last.pth.tar

Takes the flags of `train.py` and follows its way from images to an augmented batch. Beside the sheet it prints how much
of the saliency lies in what is removed or put back, which is what `--keep-size` and `--keep-tau` are chosen by: the
same seed shows the same crops whatever these are.
"""
import argparse
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm import create_model
from timm.data.loader import adapt_to_chs
from timm.task import ClassificationTask, TrainingTask, resume_task_checkpoint
from timm.utils import setup_default_logging, unwrap_model
from torch import Tensor, nn

import keepaug
from keepaug import engine, options
from keepaug.augment import BatchAugment
from keepaug.engine.early_exit import find_early_exit
from keepaug.engine.sentence import first_line
from keepaug.functional import input_saliency
from keepaug.models import EarlyExit
from keepaug.sheet import contact_sheet, heat, to_pixels

_logger = logging.getLogger('train')

# What an augmentation may leave in `last` that is worth a picture, in the order of the columns: label, and whether it
# is a map rather than images.
PICTURES = {
    'augmented': ('policy', False),
    'grid': ('attention', True),
    'saliency': ('saliency', True),
}
# What happens in the region `mask` of `last`, by what else is there; the first that is counts.
DEEDS = {'augmented': 'put back', 'partner': 'replaced'}
DEED = 'removed'
# Labels below this share of an image are left out of its caption.
LEAST_SHARE = 0.001
ROWS = 8  # images below each other, before the sheet goes on beside them


class Step(NamedTuple):
    """What one augmentation did to the images of the sheet.

    Attributes:
        name: The augmentation, as the log calls it.
        drawn: What of `last` is per image.
        judge: Saliency (B, 1, H, W) of the images it received, by the full pass; None where it drew no region.
        result: Images (B, C, H, W) it gave.
    """
    name: str
    drawn: dict[str, Tensor]
    judge: Tensor | None
    result: Tensor

    @property
    def saliency(self) -> Tensor | None:
        """The map that the region was drawn by; the judge's where it was drawn blindly."""
        return self.drawn.get('saliency', self.judge)

    @property
    def mask(self) -> Tensor | None:
        """bool (B, 1, H, W), True in the region; where that is one of a feature map, in the pixels below it."""
        if self.judge is None:
            return None
        return F.interpolate(self.drawn['mask'].float(), self.result.shape[-2:]).bool()

    def first(self, count: int) -> 'Step':
        """The step of the first images alone."""
        drawn = {name: value[:count] for name, value in self.drawn.items()}
        judge = None if self.judge is None else self.judge[:count]
        return Step(self.name, drawn, judge, self.result[:count])


class Record(NamedTuple):
    """A batch on its way through the augmentations.

    Attributes:
        title: Model and where its weights are from.
        images: Images (B, C, H, W) that the loader gave; of pairs the clean ones.
        steps: What each augmentation did to them.
        captions: Labels of the results with their shares.
        mean: Mean per channel that was subtracted, of pixels in [0, 1].
        std: Standard deviation per channel that was divided by.
    """
    title: str
    images: Tensor
    steps: list[Step]
    captions: list[str]
    mean: Sequence[float]
    std: Sequence[float]


class Shares(NamedTuple):
    """How much of image and saliency lies in an augmentation's region, on average over the images that have one.

    Attributes:
        name: The augmentation.
        deed: What happens in the region.
        count: Images that have one.
        area: Share of the image.
        own: Share of the saliency that the region was drawn by; None where it was drawn blindly.
        full: Share of the saliency of the full pass.
    """
    name: str
    deed: str
    count: int
    area: float
    own: float | None
    full: float

    @property
    def kept(self) -> float:
        """Share of the full pass's saliency that the augmentation left untouched.

        What lies outside the region that is removed or replaced. Where the region is put back onto a changed image,
        what lies inside it.
        """
        return self.full if self.deed == DEEDS['augmented'] else 1. - self.full


def main(argv: Sequence[str] | None = None) -> None:
    setup_default_logging()
    parser = create_parser()
    args, _ = options.parse_args(parser, argv)
    args = keepaug.prepare(args)
    options.check_stock(args)
    check_preview(args)
    engine.check_data_folder(args.dataset, args.data_dir or args.data)
    if args.check:
        _logger.info('The flags fit together.')
        return
    record = record_batch(args)
    shares = [measure(step) for step in record.steps if step.mask is not None]
    draw_sheet(record, shares).save(args.preview_output)
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
    add('--preview-checkpoint', metavar='FILE',
        help='training checkpoint whose weights measure saliency, early head included; as --resume')
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
            f'--preview-checkpoint {args.preview_checkpoint} and --resume {args.resume} both give weights: drop one.')
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
    args.smoothing = 0.  # so that targets are the shares that mixing gives
    args.workers = 0  # one batch comes sooner without
    engine.import_device_modules(args)
    device = engine.open_device(args)
    precision = engine.resolve_precision(args, device)
    engine.seed_everything(args)

    model, data_config = engine.build_model(args, create_model)
    model = engine.place_model(model, args, device, precision)
    dataset = engine.build_train_dataset(args, data_config)
    args.batch_size = even_batch_size(args.preview_images, dataset)
    mixup_fn, collate_fn = engine.build_mixing(args)
    loader = engine.build_train_loader(args, dataset, data_config, device, precision.dtype, collate_fn)
    # Without the teacher or the criterion of the run: augmentations look at the model alone.
    task = ClassificationTask(model, device=device, dtype=precision.dtype, verbose=False)
    task = keepaug.wrap_task(task, args)
    engine.tell_progress(task, epoch=1, epochs=2)  # what grows with the training is shown as it is at the end
    source = load_weights(args, task)
    _logger.info(f'Saliency is that of {source}.')
    task.train()
    settings = engine.LoopSettings.from_args(args, device, precision, args.batch_size)

    # Again, so that models and flags which draw more or fewer numbers on the way get the same images.
    engine.seed_everything(args)
    x, target = settings.to_device(*next(iter(loader)))
    if mixup_fn is not None:
        x, target = mixup_fn(x, target)
    x = settings.in_layout(x)
    augment = getattr(task, 'augment', None)
    rows = min(args.preview_images, len(x) // getattr(augment, 'rows_per_sample', 1))
    with precision.autocast():
        steps, labels = run_steps(augment.augments if augment else (), x, target, rows, bare_model(task))
    if not steps:
        _logger.info('No augmentation of keepaug is on: the sheet shows what the loader gives.')
    mean, std = (adapt_to_chs(data_config[name], x.shape[1]) for name in ('mean', 'std'))
    return Record(
        f'{args.model}, {source}', x[:rows], steps, list(label_captions(labels, class_names(dataset))), mean, std)


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
    engine.check_checkpoint(path, flag)
    try:
        resume_task_checkpoint(task, path, log_info=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f'{flag} {path} does not fit --model {args.model} with {args.num_classes} classes '
            f'({first_line(error)}); give the flags of the run that wrote it.') from error


def bare_model(task: TrainingTask) -> nn.Module:
    """The model of a task, without an early head and what else is trained beside it."""
    model = unwrap_model(task.get_eval_model())
    return model.backbone if isinstance(model, EarlyExit) else model


def run_steps(
        augments: Sequence[BatchAugment],
        x: Tensor,
        target: Tensor,
        rows: int,
        model: nn.Module,
) -> tuple[list[Step], Tensor]:
    """Augments a batch and records what each augmentation did to its first images.

    Args:
        augments: Augmentations in the order a batch meets them.
        x: Images of the batch, as many rows as the augmentations take.
        target: Their targets.
        rows: Images B to record.
        model: Model whose saliency judges the regions.

    Returns:
        A step per augmentation that is on, and the targets of the first B results.
    """
    steps = []
    for augment in augments:
        received, before, labels = len(x), x[:rows], target[:rows]
        x, target = augment(x, target)
        drawn = {name: value[:rows] for name, value in augment.last.items() if torch.is_tensor(value) and value.ndim}
        if not augment.active:
            continue
        # What looks at saliency has a map to show even where it draws no region, a mixer of whole images has not.
        seen = 'mask' in drawn and ('saliency' in drawn or drawn['mask'].any())
        judge = input_saliency(model, before, labels) if seen else None
        # Where more rows come out than went in, the new ones stand behind the old.
        steps.append(Step(type(augment).__name__, drawn, judge, x[max(0, len(x) - received):][:rows]))
    return steps, target[:rows]


def draw_sheet(record: Record, shares: Sequence[Shares]) -> Image.Image:
    """Lays out what was recorded: a row per image, columns per step, the shares above and the labels below."""
    columns, outlines = {'image': to_pixels(record.images, record.mean, record.std)}, {}
    for step in record.steps:
        of_step, outlined = step_columns(step, record.mean, record.std)
        columns |= of_step
        outlines |= outlined
    return contact_sheet(
        columns,
        outlines,
        captions=record.captions,
        titles=[record.title, *map(describe_shares, shares)],
        across=math.ceil(len(record.images) / ROWS),
    )


def step_columns(
        step: Step, mean: Sequence[float], std: Sequence[float]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pictures of a step by label, and the masks to outline, by the label of the picture they belong on."""
    shown = {**step.drawn, 'saliency': step.saliency}
    size = step.result.shape[-2:]
    columns, outlines = {}, {}
    for name, (label, is_map) in PICTURES.items():
        picture = shown.get(name)
        if picture is None:
            continue
        if is_map:
            maps = picture if picture.ndim == 4 else picture[:, None]
            columns[f'{step.name}: {label}'] = heat(F.interpolate(maps.float(), size))
        else:
            columns[f'{step.name}: {label}'] = to_pixels(picture, mean, std)
    if step.mask is not None:
        outlines[f'{step.name}: {PICTURES["saliency"][0]}'] = step.mask
    return {**columns, f'{step.name}: result': to_pixels(step.result, mean, std)}, outlines


def measure(step: Step) -> Shares:
    """Shares of image and saliency in the region of a step that draws one; nan where no image has one."""
    mask = step.mask
    has = mask.flatten(1).any(1)

    def share(saliency: Tensor) -> float:
        inside, total = ((saliency * part).double().sum((1, 2, 3))[has] for part in (mask, 1))
        return (inside / total).nanmean().item()

    own = step.drawn.get('saliency')
    return Shares(
        name=step.name,
        deed=next((deed for name, deed in DEEDS.items() if name in step.drawn), DEED),
        count=int(has.sum()),
        area=share(torch.ones_like(step.judge)),
        own=None if own is None else share(own),
        full=share(step.judge),
    )


def share_table(shares: Sequence[Shares], images: int) -> Table:
    """The shares for the screen."""
    table = Table(
        title=f'Share of image and saliency in the region, mean over the images that have one, of {images}',
        caption='Own map: what the region was drawn by. Full pass: the same judge for every flag; compare it with that '
                'of a region drawn blindly, --keep-tau none.')
    for column in ('augmentation', 'region', 'images', 'of the image', 'of the saliency, own map', '... full pass'):
        table.add_column(column, justify='left' if column in ('augmentation', 'region') else 'right')
    for row in shares:
        table.add_row(
            row.name, row.deed, str(row.count), *map(percent, (row.area, row.own, row.full)))
    return table


def describe_shares(row: Shares) -> str:
    """The shares for the sheet."""
    if not row.count:
        return f'{row.name}: no region in any image'
    return f'{row.name}: {percent(row.area)} of the image, {percent(row.full)} of the saliency {row.deed}'


def percent(share: float | None) -> str:
    return '-' if share is None or share != share else f'{100 * share:.1f} %'


def class_names(dataset) -> dict[int, str]:
    """Names by class index; none where the data set does not tell."""
    class_to_idx = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None) or {}
    return {index: str(name) for name, index in class_to_idx.items()}


def label_captions(target: Tensor, names: Mapping[int, str]) -> Iterator[str]:
    """Each image's labels with their shares, the largest first.

    Args:
        target: Class indices (B,), or shares (B, K).
        names: Names by class index; the index stands for a class without one.
    """
    if target.ndim == 1:
        target = F.one_hot(target)
    for shares in target.float().cpu():
        order = shares.argsort(descending=True, stable=True).tolist()
        yield ', '.join(
            f'{names.get(index, index)}: {100 * shares[index]:.3g} %' for index in order if shares[index] > LEAST_SHARE)


if __name__ == '__main__':
    engine.explain_errors(main)
