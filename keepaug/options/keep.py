"""The flags that keepaug adds to stock's."""
import argparse

from keepaug.augment.keep_cut import KeepCut
from keepaug.augment.saliency import SALIENCIES
from keepaug.options.argv import stock_first
from keepaug.options.early_exit import add_early_exit
from keepaug.options.exact_resume import add_exact_resume
from keepaug.options.keep_paste import add_keep_paste
from keepaug.options.label_mixing import add_label_mixing
from keepaug.options.occlusion import add_copies, add_occlusion
from keepaug.options.refine import add_refine
from keepaug.options.watch import add_watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of keepaug to a parser that already holds those of stock's training script.

    Every command line that the parser understood before keeps its meaning: a prefix that was unique among its flags
    stays theirs, and none of ours takes the path of the data set for its value.

    Raises:
        argparse.ArgumentError: a flag stands on the parser already.
    """
    stock_first(parser)
    _keep_cut(parser)
    add_keep_paste(parser)
    _controls(parser)
    add_early_exit(parser)
    add_label_mixing(parser)
    add_occlusion(parser)
    add_copies(parser)
    add_refine(parser)
    add_exact_resume(parser)
    add_watch(parser)


def tau(text: str) -> float | None:
    """The value of `--keep-tau`: a number, or `none` (read as `None`) for windows drawn blindly."""
    return None if text.lower() == 'none' else float(text)


def _keep_cut(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('keep-cut: remove only what carries little saliency').add_argument
    add('--keep-cut', nargs='?', const='cutout', choices=KeepCut.modes,
        help='turn it on; alone: cutout (one square set to the mean colour), erase: random erasing with its own flags, '
             'cutmix: another image in the place, with the flags of --cutmix')
    add('--keep-tau', type=tau, default=0.6, metavar='SHARE',
        help='share of windows, by saliency, among which the one to remove is drawn (the one to paste: among the '
             'others); none: draw blindly')
    add('--keep-size', type=int, metavar='PX', help='side of the window in pixels; unset: 16 below 96 px, else 40')
    add('--keep-prob', type=float, metavar='P', help='probability per image; unset: 1')
    add('--keep-saliency', choices=SALIENCIES,
        help='pass that measures saliency: full, low (on a reduced image), early (from an early head), low-early '
             '(both); unset: low where the model can')
    add('--keep-low-scale', type=float, default=0.5, metavar='SHARE', help='side of the reduced image, as a share')


def _controls(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('controls for keep-cut').add_argument
    add('--cutout', nargs='?', type=int, const=0, metavar='PX',
        help='plain Cutout: one square anywhere, partly outside at the border; alone: side as for --keep-size')
