"""The curves of a run as a picture, from its summary.csv.

    python -m keepaug.plot output/train/RUN

Both risks on training images beside the validation loss (Data Augmentation Revisited, Figure 1), the accuracy, and the
phases of a run with `--refine-epochs`.
"""

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from itertools import groupby

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402  the backend is chosen before

from keepaug.console.errors import explain_errors  # noqa: E402
from keepaug.files.drafts import whole_file  # noqa: E402

# Curves of a panel: column of summary.csv, name in the legend. Columns a run lacks are left out.
LOSSES = {
    'risk_augmented': 'training images, augmented',
    'risk_clean': 'training images, clean',
    'eval_loss': 'validation',
}
ACCURACIES = {'eval_top1': 'top-1', 'eval_top5': 'top-5'}
SHADES = {'fading': '0.92', 'refined': '0.82'}

Rows = Sequence[Mapping[str, str]]


def read_summary(run: str) -> Rows:
    """The rows of a run's `summary.csv`.

    Args:
        run: The run's folder, or the file itself.

    Raises:
        ValueError: There is no such file, or no epoch in it.
    """
    path = os.path.join(run, 'summary.csv') if os.path.isdir(run) else run
    if not os.path.isfile(path):
        raise ValueError(f'{path} does not exist: name the folder of a run that train.py wrote.')
    with open(path, newline='') as file:
        rows = [row for row in csv.DictReader(file) if (row.get('epoch') or '').isdigit()]
    if not rows:
        raise ValueError(f'{path} holds no epoch yet.')
    return rows


def draw_curves(rows: Rows) -> pyplot.Figure:
    """Losses above, accuracies below, over epochs; fading and refined epochs shaded."""
    figure, panels = pyplot.subplots(2, 1, sharex=True, figsize=(7, 7), layout='constrained')
    for panel, label, curves in zip(panels, ('cross entropy', 'accuracy in %'), (LOSSES, ACCURACIES)):
        for column, name in curves.items():
            points = [(int(row['epoch']), float(row[column])) for row in rows if row.get(column)]
            if points:
                panel.plot(*zip(*points), label=name, marker='.' if len(points) < 30 else None)
        for phase, group in groupby(rows, key=lambda row: row.get('phase')):
            if phase in SHADES:
                epochs = [int(row['epoch']) for row in group]
                panel.axvspan(epochs[0] - 0.5, epochs[-1] + 0.5, color=SHADES[phase], zorder=0, label=phase)
        panel.set_ylabel(label)
        if panel.get_legend_handles_labels()[0]:
            panel.legend()
    panels[-1].set_xlabel('epoch')
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('run', help='folder of a run, with its summary.csv')
    parser.add_argument('--output', help='picture to write; unset: curves.png in the folder of the run')
    args = parser.parse_args(argv)
    rows = read_summary(args.run)
    folder = args.run if os.path.isdir(args.run) else os.path.dirname(args.run)
    output = args.output or os.path.join(folder, 'curves.png')
    if os.path.isdir(output):
        raise ValueError(f'--output {output} is a folder: name a picture in it, such as {output}/curves.png.')
    curves = draw_curves(rows)
    with whole_file(output, typed=bool(args.output)) as draft:
        curves.savefig(draft, dpi=150, format=None if os.path.splitext(output)[1] else 'png')
    print(output)


if __name__ == '__main__':
    explain_errors(main)
