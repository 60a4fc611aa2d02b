"""The flags of stock timm's validation script: same names, meanings and defaults."""

import argparse

from keepaug.installation import command
from keepaug.options import shared
from keepaug.options.argv import stock_first
from keepaug.options.evaluation import add_evaluation
from keepaug.options.newer import add_task


def create_validate_parser() -> shared.Parser:
    """Every flag of the stock validation script, and no other."""
    parser = shared.Parser(
        usage='%(prog)s [options] [DIR]',
        description='Measure the accuracy of a timm model, or of many.',
        formatter_class=shared.HelpFormatter,
    )
    for add_group in (_dataset, _model, _input, _loading, _computation, _compilation, _device, _report):
        add_group(parser)
    return parser


def add_ours(parser: shared.Parser) -> None:
    """The flags that stock does not have; they yield to the prefixes of its own."""
    stock_first(parser)
    stock = parser.count
    add_task(parser)
    add = parser.add_argument_group('this script').add_argument
    add(
        '--analysis-dir',
        default='',
        metavar='DIR',
        help='folder to write calibration error, accuracy per class and confusion matrix to',
    )
    add(
        '--early-exit', action='store_true', help="judge the checkpoint's early head, through the layers before it only"
    )
    add(
        '--local-rank',
        '--local_rank',
        type=int,
        default=0,
        metavar='N',
        help='accepted for launchers that pass it, without effect',
    )
    add_evaluation(parser)
    parser.show_first(stock)
    example = '/data/birds --model resnet50 --checkpoint output/train/birds/model_best.pth.tar'
    parser.epilog = f'example: {" ".join(command("validate"))} {example}'


def _dataset(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('dataset')
    shared.add_data_source(group)
    add = group.add_argument
    add('--split', default='validation', metavar='NAME', help='split to measure on')
    add('--num-samples', type=int, metavar='N', help='length of the split, for readers that cannot tell')
    add('--real-labels', type=str, default='', metavar='FILE', help='JSON of reassessed ImageNet labels to count')
    add('--valid-labels', type=str, default='', metavar='FILE', help='file of the classes to count, an index per line')


def _model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('model')
    add = group.add_argument
    add(
        '--model',
        '-m',
        default='dpn92',
        metavar='NAME',
        help='architecture, wildcard over pretrained names, text file with a name per line, or all; a --checkpoint '
        'that says which model it holds is judged as that unless this is given',
    )
    add('--pretrained', action='store_true', help='use the published weights; implied without --checkpoint')
    add('--checkpoint', type=str, default='', metavar='PATH', help='weights to measure, or a folder of them')
    add('--use-ema', action='store_true', help='take the averaged weights of the checkpoint')
    add('--reparam', action='store_true', help='fold training-time branches into single layers first')
    shared.add_head(group)
    shared.add_model_kwargs(group)


def _input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('input')
    shared.add_input_shape(group)
    add = group.add_argument
    add('--use-train-size', action='store_true', help='size and crop of training where those for testing differ')
    add('--crop-mode', type=str, metavar='MODE', help='evaluation crop: center, squash or border')
    add('--crop-border-pixels', type=int, metavar='PX', help='border cut off around the image, in pixels')
    add('--test-pool', action='store_true', help='pool over the larger feature maps of images larger than in training')
    add('--tf-preprocessing', action='store_true', help="resize with TensorFlow's kernels (needs tensorflow)")
    shared.add_naflex(group)


def _loading(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('data loading')
    shared.add_loading(group)
    group.add_argument('-b', '--batch-size', type=int, default=256, metavar='N', help='images per batch')


def _computation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('computation')
    shared.add_speed(group)
    shared.add_seed(group)
    add = group.add_argument
    add('--num-gpu', type=int, default=1, metavar='N', help='GPUs to split each batch over')
    add('--retry', action='store_true', help='try again with smaller batches where memory does not suffice')


def _compilation(parser: argparse.ArgumentParser) -> None:
    compilers = shared.add_compilation(parser.add_argument_group('compilation'))
    compilers.add_argument('--aot-autograd', action='store_true', help='compile with ahead-of-time autograd')


def _device(parser: argparse.ArgumentParser) -> None:
    shared.add_precision(parser.add_argument_group('device'))


def _report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group('report').add_argument
    add('--log-freq', type=int, default=10, metavar='N', help='batches from one log line to the next')
    add(
        '--metrics-avg',
        type=str,
        choices=['micro', 'macro', 'weighted'],
        help='also report precision, recall and F1, averaged over classes this way',
    )
    add('--results-file', type=str, default='', metavar='FILE', help='file to write the results to')
    add('--results-format', type=str, default='csv', metavar='NAME', help='format of that file: csv or json')
