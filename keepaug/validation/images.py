"""The images that a validation judges by."""

from typing import Any

import torch
from PIL import Image
from timm.data import RealLabelsImagenet, create_loader, create_naflex_loader
from timm.data.transforms import TrimBorder
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from keepaug.console.errors import first_line
from keepaug.console.processes import process_count
from keepaug.data.classes import ClassList
from keepaug.data.patches import find_patch_size
from keepaug.data.sets import build_dataset
from keepaug.data.workers import report_failures


def build_validation_set(
    args, data_config: dict, classes: ClassList | None = None
) -> tuple[Dataset, RealLabelsImagenet | None]:
    """The validation images and, with `--real-labels`, the judge that knows ImageNet's reassessed labels.

    Args:
        args: Options.
        data_config: How images enter the model.
        classes: The list of classes, as `find_classes` gives it.

    Raises:
        ValueError: The images or the labels cannot be used.
    """
    dataset: Any = build_split(args, args.split, data_config, classes)
    if not args.real_labels:
        return dataset, None
    try:
        return dataset, RealLabelsImagenet(dataset.filenames(basename=True), real_json=args.real_labels)
    except (OSError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"--real-labels {args.real_labels} must be the JSON file of reassessed labels, and the data ImageNet's "
            f'validation images ({first_line(error)}).'
        ) from error


def build_split(args, split: str, data_config: dict, classes: ClassList | None = None) -> Dataset:
    """The images of a split, numbered by a list of classes where there is one."""
    return build_dataset(
        args,
        split,
        root=args.data or args.data_dir,  # here the positional path wins, in training --data-dir does
        channels=data_config['input_size'][0],
        classes=classes,
        num_samples=args.num_samples,
        load_bytes=args.tf_preprocessing,
    )


def build_loader(
    args,
    dataset: Any,
    model: torch.nn.Module,
    data_config: dict,
    device: torch.device,
    dtype: torch.dtype,
    pooled: bool,
):
    """Batches of a data set in order, resized and cropped for evaluation; in several processes each has its share."""
    common = dict(
        batch_size=args.batch_size,
        interpolation=data_config['interpolation'],
        mean=data_config['mean'],
        std=data_config['std'],
        crop_pct=1.0 if pooled else data_config['crop_pct'],
        crop_mode=data_config['crop_mode'],
        crop_border_pixels=args.crop_border_pixels,
        num_workers=args.workers,
        distributed=process_count() > 1,
        pin_memory=args.pin_mem,
        device=device,
        img_dtype=dtype,
        use_prefetcher=not args.no_prefetcher,
    )
    if args.naflex_loader:
        find_patch_size(model, args.model)  # a network that reads images is refused
        patch_size = getattr(getattr(model, 'embeds', None), 'patch_size', None) or 16
        return report_failures(
            create_naflex_loader(
                dataset,
                patch_size=patch_size,
                max_seq_len=args.naflex_max_seq_len,
                is_training=False,
                channels=data_config['input_size'][0],
                **common,
            )
        )
    loader = create_loader(
        dataset, input_size=data_config['input_size'], tf_preprocessing=args.tf_preprocessing, **common
    )
    if args.crop_border_pixels and isinstance(dataset.transform, Compose):
        dataset.transform.transforms[0] = _Border(args.crop_border_pixels)
    return report_failures(loader)


class _Border(TrimBorder):
    """Cuts a border off, and says of an image that has nothing else."""

    def __call__(self, image: Image.Image) -> Image.Image:
        if min(image.size) <= 2 * self.border_size:
            raise ValueError(
                f'--crop-border-pixels {self.border_size} leaves nothing of an image of {image.width} x {image.height} '
                'pixels: give fewer.'
            )
        return super().__call__(image)


def read_valid_labels(path: str, num_classes: int) -> list[int] | None:
    """Class numbers of a file with one per line, or None without a file: only these logits are compared.

    Raises:
        ValueError: The file does not hold class numbers of the model.
    """
    if not path:
        return None
    try:
        with open(path) as file:
            labels = [int(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f'--valid-labels {path} must hold one class number per line ({first_line(error)}).') from error
    if not labels or not 0 <= min(labels) <= max(labels) < num_classes:
        raise ValueError(f'--valid-labels {path} must hold class numbers from 0 to {num_classes - 1}, one per line.')
    return labels
