"""The flags of keep-paste, and what is refused beside it."""
import argparse
from collections.abc import Iterator


def add_keep_paste(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; those of the region are keep-cut's."""
    add = parser.add_argument_group('keep-paste: put back a salient region that --aa changed').add_argument
    add('--keep-paste', action='store_true',
        help='turn it on: paste a window of the image before the policy, one whose saliency lies above the share '
             '--keep-tau of all windows, at its place over the image after it')
    add('--keep-paste-size', type=int, metavar='PX', help='side of the pasted window in pixels; unset: --keep-size')


def check_keep_paste(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    """Refusals, as rows of (refused, sentence)."""
    size, image = args.keep_paste_size, min(args.input_size[1:]) if args.input_size else args.img_size
    yield size is not None and not args.keep_paste, (
        f'--keep-paste-size {size} has no effect without --keep-paste: add --keep-paste or drop it.')
    if not args.keep_paste:
        return
    yield size is not None and not (isinstance(size, int) and size >= 1), (
        f'--keep-paste-size {size} is no side of a window: give a whole number of pixels, at least 1.')
    yield bool(size and image) and size > image, (
        f'--keep-paste-size {size} does not fit into images of {image} px: choose at most {image}.')
    for other, on, why in (
            ('--no-aug', args.no_aug, 'leaves no policy to paste over'),
            ('--naflex-loader', args.naflex_loader, 'makes batches of patches'),
            (f'--aug-splits {args.aug_splits}', args.aug_splits > 1, 'has clean and augmented rows of its own'),
            ('--train-img-sizes', bool(args.train_img_sizes), 'takes the transform out of the data set'),
            ('--resplit', args.resplit, "is for stock's eraser, and ours never erases the clean image"),
    ):
        yield on, f'--keep-paste does not work with {other}, which {why}: drop one of the two.'
    yield not args.aa, (
        '--keep-paste has no policy to paste over: add --aa with one that timm knows, such as rand-m9-mstd0.5.')
