"""The command line of the exports."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keepaug.models  # noqa: F401  registers our networks with timm
from keepaug.export import detectron2, detectron2_timm, onnx, safetensors, timm_folder, torchvision
from keepaug.export.output import check_output
from keepaug.export.source import Source, load_source, read_labels
from keepaug.installation import command
from keepaug.options import refuse, shared
from keepaug.options.flag_ranges import range_rows
from keepaug.options.stock_checks import channel_rows, head_rows

DESCRIBED = (
    'model',
    'num_classes',
    'gp',
    'model_kwargs',
    'in_chans',
    'img_size',
    'input_size',
    'mean',
    'std',
    'crop_pct',
    'interpolation',
)


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        export: Writes a `Source` to a path and tells what it did.
        help: What it is.
        folder: Whether it writes a folder.
        suffix: How the name of its file must end.
        labels: Whether it holds names of classes.
        base: Whether it takes a Detectron2 configuration to build upon.
        check: Raises `ValueError` where the export is impossible on this machine.
    """

    export: Callable[..., str]
    help: str
    folder: bool = False
    suffix: str = ''
    labels: bool = False
    base: bool = False
    check: Callable[[], None] = lambda: None


FORMATS = {
    'detectron2': Format(
        detectron2.export,
        "a plain ResNet as Detectron2's own backbone: backbone.pkl and config.yaml",
        folder=True,
        base=True,
    ),
    'detectron2-timm': Format(
        detectron2_timm.export,
        'any network with stages for Detectron2: config.yaml, weights and a module to import',
        folder=True,
        base=True,
    ),
    'torchvision': Format(torchvision.export, "a plain ResNet as the backbone of torchvision's detectors"),
    'timm': Format(
        timm_folder.export,
        'a folder that timm loads as local-dir:FOLDER and that can be uploaded to the Hub',
        folder=True,
        labels=True,
    ),
    'safetensors': Format(
        safetensors.export,
        'one self-describing file of weights, without code',
        suffix=safetensors.SUFFIX,
        labels=True,
    ),
    'onnx': Format(
        onnx.export,
        'a graph from normalised images to logits',
        suffix=onnx.SUFFIX,
        labels=True,
        check=onnx.check_installed,
    ),
}


def fitting_format(source: Source) -> str:
    """The format in which a model goes to a detector, Detectron2's own first; a file of weights for one that cannot."""
    for name, check in {'detectron2': detectron2.check_model, 'detectron2-timm': detectron2_timm.check_model}.items():
        try:
            check(source)
        except ValueError:
            continue
        return name
    return 'safetensors'


def create_parser() -> argparse.ArgumentParser:
    """One subcommand per format."""
    parser = shared.Parser(
        prog=shlex.join(command('export')),
        description='Write a trained model for other libraries.',
        epilog=f'example: {shlex.join(command("export"))} timm output/train/RUN/model_best.pth.tar --output my-model',
    )
    commands = parser.add_subparsers(dest='format', metavar='FORMAT', required=True)
    for name, form in FORMATS.items():
        subparser = commands.add_parser(
            name, help=form.help, description=f'Write {form.help}.', formatter_class=shared.HelpFormatter
        )
        add = subparser.add_argument
        add('checkpoint', metavar='CHECKPOINT', help='checkpoint of a training run, or a file of weights')
        add('-o', '--output', required=True, metavar='PATH', help='folder to make' if form.folder else 'file to write')
        add('--no-ema', action='store_true', help='export the plain weights if the checkpoint also has an average')
        if form.labels:
            add(
                '--labels',
                default='',
                metavar='PATH',
                help='file with one class name per line, or an image folder; unset: the names in the checkpoint',
            )
        if form.base:
            add('--base', default='', metavar='FILE', help='configuration of a detector to extend (_BASE_)')
        group = subparser.add_argument_group('model, if the checkpoint does not describe it')
        group.add_argument('--model', default='', metavar='NAME', help='architecture')
        shared.add_head(group)
        shared.add_model_kwargs(group)
        shared.add_input_shape(group)
    return parser


def run(args: argparse.Namespace) -> None:
    """Exports as the arguments say.

    Raises:
        ValueError: One sentence for the user; nothing was written.
    """
    form = FORMATS[args.format]
    form.check()
    refuse([*range_rows(args), *head_rows(args), *channel_rows(args)])
    if form.base and args.base:
        detectron2.check_base(args.base)
    check_output(args.output, args.checkpoint, form.folder, form.suffix)
    source = load_source(args.checkpoint, {name: vars(args)[name] for name in DESCRIBED}, use_ema=not args.no_ema)
    _describe(source)
    options = {}
    if form.labels:
        options['labels'] = read_labels(args.labels, source.model.num_classes) if args.labels else source.labels
    if form.base and args.base:
        options['base'] = args.base
    print(form.export(source, args.output, **options))


def _describe(source: Source) -> None:
    size = ' x '.join(map(str, source.data_config['input_size']))
    weights = 'the running average (EMA); --no-ema exports the plain ones' if source.averaged else 'the plain ones'
    print(f'{source.architecture}, {source.model.num_classes} classes, images of {size}. Weights: {weights}.')


def main(argv: Sequence[str] | None = None) -> None:
    run(create_parser().parse_args(argv))
