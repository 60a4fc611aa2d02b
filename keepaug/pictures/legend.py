"""Legends of diagrams."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


def draw_legend(owner: 'Axes | Figure', handles: 'Sequence[Artist]', **places) -> 'Legend':
    """A legend that names each handle as its label is written.

    matplotlib's own leaves out labels that begin with `_` and reads `$` as mathematics; a run may be called either.

    Args:
        owner: The diagram or the figure.
        handles: What it shows, with their labels.
        **places: Where it is drawn, and how, as matplotlib takes it.
    """
    legend = owner.legend(handles, [str(number) for number in range(len(handles))], **places)
    for text, handle in zip(legend.get_texts(), handles):
        text.set_text(str(handle.get_label()))
        text.set_parse_math(False)
    return legend
