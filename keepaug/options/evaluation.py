"""The flags of the evaluations beyond accuracy, and what they refuse."""

import argparse
import functools
import importlib.util
import os
from collections.abc import Iterable
from typing import Any

from keepaug.datasets import BOXED_DATASETS
from keepaug.installation import install_extra
from keepaug.methods.method import spell
from keepaug.options.ood import add_ood, check_ood
from keepaug.options.training_images import add_training_images, check_training_images

EVALUATIONS = ('localization', 'fgsm', 'occlusion', 'in-between', 'ood', 'risk', 'spectrum')

# Arguments that one evaluation alone looks at.
OF_ONE = {
    'gt_boxes': 'localization',
    'cam_threshold': 'localization',
    'fgsm_eps': 'fgsm',
    'ood_data_dir': 'ood',
    'odin_temperature': 'ood',
    'odin_eps': 'ood',
    'risk_args': 'risk',
    'spectrum_class': 'spectrum',
}


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('evaluations beyond accuracy').add_argument
    add(
        '--evaluate',
        action='extend',
        nargs='+',
        choices=EVALUATIONS,
        metavar='NAME',
        help=f'what to measure after the plain pass: {", ".join(EVALUATIONS)}',
    )
    add('--eval-samples', type=int, metavar='N', help='evaluate on so many images, a seeded choice; unset: all')
    add(
        '--compare',
        nargs='+',
        default=[],
        metavar='CKPT',
        help='further checkpoints to judge, and to draw in the same pictures; of the architecture that they name',
    )
    add(
        '--gt-boxes',
        default='',
        metavar='PATH',
        help='true boxes for localization: CSV (image,x0,y0,x1,y1), val_annotations.txt of Tiny-ImageNet, '
        'bounding_boxes.txt of CUB, or a folder of XML as for ImageNet; unset: those that the data set knows, as '
        f'{", ".join(BOXED_DATASETS)} do',
    )
    add(
        '--cam-threshold',
        type=float,
        default=0.2,
        metavar='SHARE',
        help="share of a class activation map's maximum that its box is cut out at",
    )
    add(
        '--fgsm-eps', type=float, default=8.0, metavar='N', help="step of the FGSM attack in 1/255 of the pixels' range"
    )
    add_ood(parser)
    add_training_images(parser)


@functools.cache
def _defaults() -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_evaluation(parser)
    return vars(parser.parse_args([]))


def check_evaluation(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    """Rows of what `--evaluate` and `--compare` refuse."""
    for path in args.compare:
        yield not os.path.exists(path), f'--compare {path} does not exist; name checkpoints that do.'
    for name, evaluation in OF_ONE.items():
        value = vars(args)[name]
        if isinstance(value, tuple):  # numbers between commas
            value = ','.join(map(str, value))
        yield (
            evaluation not in (args.evaluate or ()) and vars(args)[name] != _defaults()[name],
            (f'{spell(name, value)} has no effect without --evaluate {evaluation}: add it or drop this.'),
        )
    if not args.evaluate:
        yield args.eval_samples is not None, '--eval-samples chooses images for --evaluate: name what to evaluate.'
        return
    asked = f'--evaluate {" ".join(args.evaluate)}'
    missing = [name for name in ('torchmetrics', 'scipy', 'matplotlib') if importlib.util.find_spec(name) is None]
    yield bool(missing), f'{asked} needs {" and ".join(missing)}: {install_extra("eval")}.'
    yield args.task == 'multilabel', f'{asked} is of one label per image; drop it, or --task multilabel.'
    yield args.naflex_loader, f'{asked} is of images on a grid of pixels; drop it, or --naflex-loader.'
    yield bool(args.real_labels), f'{asked} counts one label per image, --real-labels has several: drop one of the two.'
    yield from _check_localization(args)
    yield from check_ood(args)
    yield from check_training_images(args)


def _check_localization(args: argparse.Namespace) -> Iterable[tuple[bool, str]]:
    if 'localization' not in args.evaluate:
        return
    yield (
        not args.gt_boxes and args.dataset not in BOXED_DATASETS,
        ('--evaluate localization needs true boxes: name a file or folder of them by --gt-boxes.'),
    )
    yield (
        bool(args.gt_boxes) and not os.path.exists(args.gt_boxes),
        (f'--gt-boxes {args.gt_boxes} does not exist; name a file or folder of boxes.'),
    )
    yield (
        args.tf_preprocessing,
        ('--evaluate localization cannot tell where --tf-preprocessing puts a box: drop one of the two.'),
    )
