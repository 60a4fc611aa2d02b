"""The papers' crop of CIFAR: `--train-crop-mode pad4`, a value of one of stock's flags."""

import argparse
from collections.abc import Iterator
from typing import Any

from keepaug.data.crops import pad_crop
from keepaug.data.transform import TransformChanges
from keepaug.methods.method import Method, Need, Refusal, typed

MODE = 'pad4'


class PadCropMethod(Method):
    """Pads by an eighth and crops at random."""

    name = 'pad-crop'
    needs = Need.IMAGES
    on_batches = False
    example = f'--train-crop-mode {MODE}'

    def is_on(self, args: argparse.Namespace) -> bool:
        # Without augmentation the loader does not look at the crop mode, and neither do we.
        return typed(args, 'train_crop_mode') == MODE and not args.no_aug

    def spelled(self, args: argparse.Namespace) -> str:
        return self.example

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return {'train_crop_mode': None}

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        return {
            'scale': f'with {self.example}, which keeps the scale',
            'ratio': f'with {self.example}, which keeps the shape',
        }

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        yield (
            bool(args.train_img_sizes),
            (f'{self.example} crops to one size, but --train-img-sizes asks for several: drop one of the two.'),
        )

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        changes.crop = pad_crop
