"""What an evaluation found, and how it is told: columns of results, a line of the log, a file, a picture."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from keepaug.files.drafts import whole_file
from keepaug.files.plain_json import write_json
from keepaug.pictures.legend import draw_legend

# Digits that are written behind the point; percentages of a million images need four.
DIGITS = 4
WIDTH = 6.4  # inches of a panel, and matplotlib's own default
HEIGHT = 4.8
STYLES: tuple[Literal['-', '--', ':', '-.'], ...] = ('-', '--', ':', '-.')  # of the curves of a diagram
BASELINE = 'gray'
BAND = 0.15  # how opaque the intervals are
DOTTED = 30  # points from which on they are not marked
BELOW = -0.15  # of the axes, in their height
MARK = '-' * 8  # as wide as the line before each label of a legend
LETTERS = 60  # that stand beside each other in a legend, and in a line of the title of a diagram
DOTS = 120  # per inch


@dataclass(frozen=True)
class Panel:
    """A diagram.

    Attributes:
        title: What is shown.
        xlabel: What runs to the right, with its unit.
        ylabel: What runs up, with its unit.
        curves: Places and values by label.
        yscale: 'linear' or 'log'.
        marked: A place to mark, or None.
        intervals: Lower and upper ends of the curves' 95% intervals at their places, by label.
        baseline: What has to be beaten, in words.
        baselines: Places and values of that, by the label of the curve; by '' where all have the same.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    yscale: str = 'linear'
    marked: float | None = None
    intervals: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    baseline: str = ''
    baselines: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What one evaluation found out about one classifier.

    Attributes:
        evaluation: Its name, such as 'fgsm'.
        values: Numbers by name; in percent unless the name says otherwise.
        settings: What was measured with and on, such as the number of images.
        note: The convention behind the numbers, and its trap.
        panels: Diagrams.
        picture: A contact sheet, or None.
    """

    evaluation: str
    values: Mapping[str, float]
    settings: Mapping[str, Any]
    note: str
    panels: Sequence[Panel] = ()
    picture: Image.Image | None = field(default=None, compare=False)

    def columns(self) -> dict[str, float]:
        """The values as columns of a row of results, each behind the evaluation's name."""
        prefix = self.evaluation.replace('-', '_')
        return {f'{prefix}_{name}': round(value, DIGITS) for name, value in self.values.items()}

    def describe(self) -> str:
        """The values and settings as a line of the log."""
        values = ', '.join(f'{name} {round(value, DIGITS):g}' for name, value in self.values.items())
        return f'{self.evaluation}: {values} ({self.describe_settings()}).'

    def describe_settings(self) -> str:
        """What was measured with and on, less what is a list."""
        return ', '.join(
            f'{name.replace("_", " ")} {value}' for name, value in self.settings.items() if not isinstance(value, list)
        )


class Gallery:
    """The reports of several classifiers, written side by side.

    Args:
        folder: Where to write; empty to take up alone.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.reports: dict[str, dict[str, Report]] = {}

    def add(self, subject: str, report: Report) -> None:
        """Takes up a report and writes all of its evaluation, so that a run that is cut short leaves what it has.

        Args:
            subject: Name of the classifier.
            report: What was found out about it.

        Raises:
            ValueError: The folder cannot be written.
        """
        reports = self.reports.setdefault(report.evaluation, {})
        reports[subject] = report
        if not self.folder:
            return
        path = os.path.join(self.folder, report.evaluation)
        try:
            os.makedirs(self.folder, exist_ok=True)
            write_json(path + '.json', {name: _plain(report) for name, report in reports.items()})
            picture = draw(reports)
            if picture is not None:
                with whole_file(path + '.png') as draft:
                    picture.save(draft)
        except OSError as error:
            raise ValueError(
                f'--analysis-dir {self.folder} cannot be written ({error.strerror}): choose another.'
            ) from error


def draw(reports: Mapping[str, Report]) -> Image.Image | None:
    """One picture of an evaluation: its diagrams with the curves of every classifier, then the contact sheets.

    Args:
        reports: What the evaluation found, by classifier.

    Returns:
        The picture, or None where there is nothing to see.
    """
    parts = [_draw_panels(reports)] if any(report.panels for report in reports.values()) else []
    parts += [report.picture for report in reports.values() if report.picture is not None]
    if not parts:
        return None
    whole = Image.new('RGB', (max(part.width for part in parts), sum(part.height for part in parts)), 'white')
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _draw_panels(reports: Mapping[str, Report]) -> Image.Image:
    """Diagrams beside each other, where those of one title share their axes.

    Of several classifiers each has its colour, and each curve of a diagram its style; of one, each curve has both. What
    is to be beaten is gray, in the style of its curve.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = list(dict.fromkeys(panel.title for report in reports.values() for panel in report.panels))
    figure = Figure(figsize=(WIDTH * len(titles), HEIGHT), dpi=DOTS, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    first = next(iter(reports.values()))
    figure.suptitle(
        textwrap.fill(f'{first.evaluation} ({first.describe_settings()})', LETTERS * len(titles)),
        fontsize='medium',
        parse_math=False,
    )
    for axes, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles):
        panels = {name: panel for name, report in reports.items() for panel in report.panels if panel.title == title}
        labels = list(dict.fromkeys(label for panel in panels.values() for label in panel.curves))
        for number, panel in enumerate(panels.values()):
            axes.set(title=title, xlabel=panel.xlabel, ylabel=panel.ylabel, yscale=panel.yscale)
            if panel.marked is not None:
                axes.axvline(panel.marked, color='lightgray', zorder=0)
            for label, (places, values) in panel.curves.items():
                style = labels.index(label)
                colour = f'C{number if len(reports) > 1 else style}'
                marker = '.' if len(places) < DOTTED else None
                axes.plot(places, values, color=colour, linestyle=STYLES[style % len(STYLES)], marker=marker)
                if label in panel.intervals:
                    axes.fill_between(places, *panel.intervals[label], color=colour, alpha=BAND, linewidth=0, zorder=1)
        first = next(iter(panels.values()))  # what is to be beaten is the same for all
        for label, line in first.baselines.items():
            style = labels.index(label) if label in labels else 0
            axes.plot(*line, color=BASELINE, linestyle=STYLES[style % len(STYLES)], zorder=1)
        _explain(axes, list(panels) if len(reports) > 1 else [], labels, first.baseline)
        # A class or a folder may be called $5: no mathematics.
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            text.set_parse_math(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _explain(axes, names: Sequence[str], labels: Sequence[str], baseline: str) -> None:
    """A legend below the diagram, where it hides nothing: colours, if there are names, styles, and the baseline."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=f'C{number}', label=name) for number, name in enumerate(names)]
    if len(labels) > 1 or not names:
        handles += [
            Line2D([], [], color='black' if names else f'C{style}', linestyle=STYLES[style % len(STYLES)], label=label)
            for style, label in enumerate(labels)
        ]
    if baseline:
        handles.append(Line2D([], [], color=BASELINE, label=baseline))
    columns = max(1, LETTERS // max(len(f'{MARK}{handle.get_label()}') for handle in handles))
    draw_legend(axes, handles, loc='upper center', bbox_to_anchor=(0.5, BELOW), ncols=columns)


def _plain(report: Report) -> dict[str, Any]:
    """The report as JSON can hold it."""
    return dict(
        values={name: round(value, DIGITS) for name, value in report.values.items()},
        settings=dict(report.settings),
        note=report.note,
        panels=[asdict(panel) for panel in report.panels],
    )
