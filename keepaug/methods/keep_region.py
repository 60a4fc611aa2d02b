"""What keep-cut and keep-paste share: the flags of a region that is drawn by saliency."""

import argparse
from typing import Any

from keepaug.augment.keep_region import KeepRegion
from keepaug.augment.recycled import RECYCLED
from keepaug.augment.saliency import LOW, PASSES
from keepaug.methods.method import Flag, Method
from keepaug.ranges import CHANCE


def tau(text: str) -> float | None:
    """The value of `--keep-tau`: a number, or `none` (read as `None`) for regions drawn blindly."""
    return None if text.lower() == 'none' else float(text)


TAU = Flag(
    '--keep-tau',
    parameter='tau',
    type=tau,
    default=0.6,
    metavar='SHARE',
    range=KeepRegion.ranges['tau'],
    none_is_typed=True,
    help='share of windows with the least saliency: the window to remove is drawn among these, the one to paste '
    'among the others; none: draw blindly',
)
SIZE = Flag(
    '--keep-size',
    parameter='size',
    type=int,
    metavar='PX',
    range=KeepRegion.ranges['size'],
    in_image=True,
    help='side of the window in pixels; unset: 16 below 96 px, else 40',
)
PROB = Flag(
    '--keep-prob',
    parameter='prob',
    type=float,
    metavar='P',
    range=CHANCE,
    help='probability per image; unset: 1',
)
SALIENCY = Flag(
    '--keep-saliency',
    parameter='saliency',
    type=str,
    choices=(*PASSES, RECYCLED),
    help='pass that measures saliency: full, low (on a reduced image), early (from an early head), low-early (both); '
    'recycled: from earlier training steps; unset: low where the model can run it',
)
LOW_SCALE = Flag(
    '--keep-low-scale',
    parameter='low_scale',
    type=float,
    default=0.5,
    metavar='SHARE',
    range=KeepRegion.ranges['low_scale'],
    help='side of the reduced image, as a share of the full one',
)


class KeepMethod(Method):
    """A method that asks where an image is salient before it touches a region."""

    settings: tuple[Flag, ...] = (TAU, SIZE, PROB, SALIENCY, LOW_SCALE)

    def ignores(self, args: argparse.Namespace) -> dict[str, str]:
        ignored = {}
        if args.keep_tau is None:
            ignored['keep_saliency'] = ignored['keep_low_scale'] = 'with --keep-tau none, which draws blindly'
        elif args.keep_saliency is not None and args.keep_saliency not in LOW:
            ignored['keep_low_scale'] = f'with --keep-saliency {args.keep_saliency}, which reduces no image'
        return ignored

    def uses_saliency(self, args: argparse.Namespace) -> bool:
        return args.keep_tau is not None

    def window_size(self, args: argparse.Namespace) -> int | None:
        """Edge of the window in pixels as the flags give it; None where they do not."""
        return args.keep_size

    def draws_size(self, args: argparse.Namespace) -> bool:
        """Whether each region has a size of its own."""
        return False

    def region_settings(self, args: argparse.Namespace) -> dict[str, Any]:
        """Hyper-parameters of a region that does not draw its size."""
        return dict(
            size=args.keep_size,
            tau=args.keep_tau,
            prob=1.0 if args.keep_prob is None else args.keep_prob,
            saliency=args.keep_saliency,
            low_scale=args.keep_low_scale,
        )


def fill_of_erasing(args: argparse.Namespace) -> str:
    """What `--remode` fills in; stock takes the empty name for const."""
    return (args.remode or 'const').lower()
