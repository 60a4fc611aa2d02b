"""What a validation says beyond top-1: calibration, accuracy per class, which classes are taken for which."""

import csv
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keepaug.console.processes import is_first_process
from keepaug.files.drafts import whole_file
from keepaug.files.outputs import check_output_folder
from keepaug.files.plain_json import write_json
from keepaug.files.spreadsheets import as_text
from keepaug.installation import install_extra
from keepaug.validation.processes import gather_rows

NEEDED = ('torchmetrics', 'matplotlib')
# Bins of confidence of the calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks").
BINS = 15
# Beyond so many classes their names cannot be read in the picture; beyond so many more, their squares cannot be seen.
NAMED_CLASSES = 50
SEEN_CLASSES = 1000


def check_analysis(folder: str, real_labels: str) -> None:
    """Says before a validation that its analysis is impossible.

    Args:
        folder: Value of `--analysis-dir`; empty for no analysis.
        real_labels: Value of `--real-labels`.

    Raises:
        ValueError: A package is missing, the folder cannot be made, or the labels are of another kind.
    """
    if not folder:
        return
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'--analysis-dir needs {" and ".join(missing)}: {install_extra("eval")}.')
    if real_labels:
        raise ValueError(
            '--analysis-dir counts one label per image, but --real-labels has several: drop one of the two.'
        )
    if is_first_process():  # which alone writes there
        check_output_folder(folder, '--analysis-dir', 'name a folder that you may write to')


class Analysis:
    """Gathers outputs of a validation.

    Args:
        num_classes: Classes the model chooses from.
        names: Names of the classes by index, or None.
        device: Device of the outputs.
    """

    def __init__(self, num_classes: int, names: Sequence[str] | None = None, device: torch.device | None = None):
        from torchmetrics.classification import MulticlassCalibrationError

        self.names = list(names) if names else [str(index) for index in range(num_classes)]
        self.calibration = MulticlassCalibrationError(num_classes, n_bins=BINS, norm='l1').to(device)
        # A pair of classes per image: a matrix of all pairs would be of gigabytes for some thousands of classes.
        self.answers = [torch.empty(0, 2, dtype=torch.int32)]

    def update(self, output: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            output: Logits (B, K).
            target: Class indices (B,).
        """
        self.calibration.update(output.float().softmax(1), target)
        self.answers.append(torch.stack([target, output.argmax(1)], 1).int().cpu())

    def compute(self) -> dict[str, Any]:
        """Results so far.

        Returns:
            `ece`: expected calibration error in percent. `classes`: per class its `name`, `images` and `accuracy` in
            percent (None without images). `confusion`: true class, predicted class and number of images of all pairs
            that occur.
        """
        answers = gather_rows(torch.cat(self.answers))
        pairs, counts = answers.unique(dim=0, return_counts=True)
        true, right = answers[:, 0], answers[answers[:, 0] == answers[:, 1], 0]
        images, correct = (classes.bincount(minlength=len(self.names)).tolist() for classes in (true, right))
        return dict(
            ece=round(100 * self.calibration.compute().item(), 4),
            classes=[
                dict(name=name, images=count, accuracy=round(100 * right / count, 4) if count else None)
                for name, count, right in zip(self.names, images, correct)
            ],
            confusion=torch.cat([pairs.long(), counts[:, None]], 1).tolist(),
        )

    def write(self, folder: str, results: Mapping[str, Any], is_primary: bool = True) -> None:
        """Writes `analysis.json` with everything, and for spreadsheets and eyes `summary.csv`, `classes.csv`,
        `confusion.csv` and `confusion.png`.

        Args:
            folder: Folder to write to; it is made.
            results: Results of the validation, to stand beside.
            is_primary: Whether this process writes; all of them take part in computing.

        Raises:
            ValueError: The folder cannot be written.
        """
        found = self.compute()
        if not is_primary:
            return
        summary = {**results, 'ece': found['ece']}
        try:
            os.makedirs(folder, exist_ok=True)
            write_json(os.path.join(folder, 'analysis.json'), {**results, **found})
            _write_rows(os.path.join(folder, 'summary.csv'), [summary.keys(), summary.values()])
            _write_rows(
                os.path.join(folder, 'classes.csv'),
                [
                    ('class', 'name', 'images', 'accuracy'),
                    *((index, *row.values()) for index, row in enumerate(found['classes'])),
                ],
            )
            _write_rows(
                os.path.join(folder, 'confusion.csv'),
                [
                    ('true', 'predicted', 'images'),
                    *((self.names[true], self.names[other], count) for true, other, count in found['confusion']),
                ],
            )
            draw_confusion(os.path.join(folder, 'confusion.png'), found['confusion'], self.names, summary)
        except OSError as error:
            raise ValueError(
                f'--analysis-dir {folder} cannot be written ({error.strerror}): choose another.'
            ) from error


def draw_confusion(
    path: str, confusion: Sequence[tuple[int, int, int]], names: Sequence[str], results: Mapping[str, Any]
) -> None:
    """Draws the share of each true class (row) that was taken for each class (column), as a PNG.

    Of more classes than can be seen, those stand for all that are most often taken for another one.
    """
    from matplotlib.figure import Figure

    pairs = torch.tensor(confusion, dtype=torch.long).view(-1, 3)
    shown = range(len(names))
    title = f'top-1 {results["top1"]:.2f} %, top-5 {results["top5"]:.2f} %\ncalibration error {results["ece"]:.2f} %'
    images = pairs[:, 0].bincount(pairs[:, 2], minlength=len(names))
    if len(names) > SEEN_CLASSES:
        shown = most_confused(pairs, NAMED_CLASSES, len(names))
        title = f'{len(shown)} of {len(names)} classes: those most often taken for another\n{title}'
    place = {number: row for row, number in enumerate(shown)}
    shares = torch.zeros(len(shown), len(shown))
    for true, other, count in confusion:
        if true in place and other in place:
            shares[place[true], place[other]] = count / images[true]
    names = [names[number] for number in shown]
    few = len(names) <= NAMED_CLASSES
    side = min(4 + 0.25 * len(names), 16)
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    picture = axes.imshow(shares.numpy(), cmap='Blues', vmin=0, vmax=1)
    figure.colorbar(picture, label='share of the true class', shrink=0.8)
    axes.set(
        xlabel='predicted',
        ylabel='true',
        title=title,
    )
    if few:
        # A class may be called $5: no mathematics.
        axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
    with whole_file(path) as draft:
        figure.savefig(draft, dpi=120)


def most_confused(pairs: Tensor, count: int, num_classes: int) -> list[int]:
    """The classes in most wrong answers, as the true one or the predicted, in their order.

    Args:
        pairs: True class, predicted class, images: (N, 3).
        count: How many classes, at most.
        num_classes: How many there are.
    """
    wrong = pairs[pairs[:, 0] != pairs[:, 1]]
    true, predicted = (wrong[:, column].bincount(wrong[:, 2], minlength=num_classes) for column in (0, 1))
    errors = true + predicted
    return errors.topk(min(count, num_classes)).indices.sort().values.tolist()


def _write_rows(path: str, rows) -> None:
    with whole_file(path) as draft, open(draft, 'w', newline='') as file:
        csv.writer(file).writerows([*map(as_text, row)] for row in rows)
