"""The curves of runs as a picture, from their summary.csv.

    keepaug-plot output/train/RUN [output/train/ANOTHER ...]

or, in a checkout, `python -m keepaug.plot ...`.

Both risks on training images beside the validation loss (Data Augmentation Revisited, Figure 1), the accuracy, the
share of saliency kept, and the phases of a run with `--refine-epochs`. Of several runs each has its colour.
"""

import argparse
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from keepaug.console.errors import explain_errors, first_line
from keepaug.files.outputs import check_output_file, output_file
from keepaug.files.summary import read_rows
from keepaug.installation import command, install_extra
from keepaug.options import shared
from keepaug.pictures.legend import draw_legend
from keepaug.validation.runs import label_runs

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Curves of a panel: column of summary.csv, name in the legend. Columns a run lacks are left out.
LOSSES = {
    'risk_augmented': 'training images, augmented',
    'risk_clean': 'training images, clean',
    'eval_loss': 'validation',
}
ACCURACIES = {'eval_top1': 'top-1', 'eval_top5': 'top-5'}
KEPT = {'saliency_kept': 'saliency kept'}
# Panels by the label of their axis; the last one is left out where no run measured it.
PANELS = {'cross entropy': LOSSES, 'accuracy in %': ACCURACIES, 'share of the saliency': KEPT}
STYLES = ('-', '--', ':')  # of the curves of a run among others
LONGEST_NAME = 200  # in bytes; file systems take 255, and a draft of a file has some of its own
SHADES = {'fading': '0.92', 'refined': '0.82'}

Rows = Sequence[Mapping[str, str]]


def read_summary(run: str) -> Rows:
    """The rows of a run's `summary.csv`.

    Args:
        run: The run's folder, or the file itself.

    Raises:
        ValueError: There is no such file, it is no summary, or holds no epoch.
    """
    path = _summary_of(run)
    if not os.path.isfile(path):
        raise ValueError(f'{path} does not exist: name the folder of a training run.')
    try:
        rows = read_rows(path, numbers=[column for curves in PANELS.values() for column in curves])
    except OSError as error:
        raise ValueError(
            f'{path} cannot be read ({error.strerror or first_line(error)}): name the folder of a training run.'
        ) from error
    if not rows:
        raise ValueError(f'{path} holds no epoch yet: name a run that has ended one.')
    return rows


def _summary_of(run: str) -> str:
    return os.path.join(run, 'summary.csv') if os.path.isdir(run) else run


def draw_curves(runs: Mapping[str, Rows]) -> 'Figure':
    """Losses above, accuracies below, over epochs; of a single run fading and refined epochs shaded.

    Args:
        runs: The rows of each run by its name.
    """
    from matplotlib.figure import Figure

    shown = {
        label: curves
        for label, curves in PANELS.items()
        if curves is not KEPT or any(row.get(column) for rows in runs.values() for row in rows for column in curves)
    }
    several = len(runs) > 1
    # Many runs have many curves, whose names would cover them.
    legend = dict(fontsize='small', loc='center left', bbox_to_anchor=(1.0, 0.5)) if several else {}
    figure = Figure(figsize=(10 if several else 7, 3.5 * len(shown)), layout='constrained')
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
    for panel, (label, curves) in zip(panels[:, 0], shown.items()):
        handles: list[Artist] = []
        for number, (run, rows) in enumerate(runs.items()):
            for style, (column, name) in enumerate(curves.items()):
                points = [(int(row['epoch']), float(row[column])) for row in rows if row.get(column)]
                if points:
                    handles += panel.plot(
                        *zip(*points),
                        label=f'{run}: {name}' if several else name,
                        color=f'C{number if several else style}',
                        linestyle=STYLES[style] if several else '-',
                        marker='.' if len(points) < 30 else None,
                    )
        if not several:
            handles += _shade(panel, rows)
        panel.set_ylabel(label)
        if handles:
            draw_legend(panel, handles, **legend)
    panels[-1, 0].set_xlabel('epoch')
    return figure


def _shade(panel: 'Axes', rows: Rows) -> 'Iterator[Artist]':
    for phase, group in groupby(rows, key=lambda row: row.get('phase')):
        if phase in SHADES:
            epochs = [int(row['epoch']) for row in group]
            yield panel.axvspan(epochs[0] - 0.5, epochs[-1] + 0.5, color=SHADES[phase], zorder=0, label=phase)


def create_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    words = ' '.join(command('plot'))
    parser = shared.Parser(prog=words, description=__doc__.splitlines()[0], epilog=f'example: {words} output/train/RUN')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folders of runs, with their summary.csv')
    parser.add_argument(
        '--output',
        metavar='FILE',
        help='picture to write; unset: curves.png in the folder of the run, or of several runs curves-RUN-RUN.png here',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = create_parser().parse_args(argv)
    if importlib.util.find_spec('matplotlib') is None:
        raise ValueError(f'Curves need matplotlib, which is not installed: {install_extra("plot")}.')
    named = list({os.path.realpath(_summary_of(run)): run for run in args.runs}.values())  # once, if named twice
    runs = dict(zip(label_runs(named), named))
    output = args.output or choose_output(runs)
    check_picture(output)
    curves = draw_curves({name: read_summary(run) for name, run in runs.items()})
    with output_file(output, '--output') as draft:
        curves.savefig(draft, dpi=150, format=None if os.path.splitext(output)[1] else 'png')
    print(f'Curves: {output}')


def choose_output(runs: Mapping[str, str]) -> str:
    """Where the picture goes unless told: into the run's own folder, but a comparison is of none of its runs."""
    if len(runs) > 1:
        name = f'curves-{"-".join(runs)}.png'.replace(os.sep, '-')
        return name if len(os.fsencode(name)) <= LONGEST_NAME else f'curves-of-{len(runs)}-runs.png'
    (run,) = runs.values()
    return os.path.join(run if os.path.isdir(run) else os.path.dirname(run), 'curves.png')


def check_picture(output: str) -> None:
    """Says before anything is read that a picture cannot be written.

    Raises:
        ValueError: It cannot be in this place, or in this format.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    formats, suffix = FigureCanvasBase.get_supported_filetypes(), os.path.splitext(output)[1].lower()
    if suffix and suffix[1:] not in formats:
        raise ValueError(f'--output {output} names no format of pictures: end it in .png, .svg or .pdf.')
    check_output_file(output, '--output')


if __name__ == '__main__':
    explain_errors(main)
