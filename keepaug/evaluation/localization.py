"""How well the evidence for a class covers the object, without a box to learn from (CutMix, section 4.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.utils import draw_bounding_boxes

from keepaug.evaluation.class_activation import ClassActivation
from keepaug.evaluation.data import Batches
from keepaug.evaluation.report import Panel, Report
from keepaug.evaluation.subject import Subject
from keepaug.measuring.intervals import percent_interval
from keepaug.pictures.contact_sheet import contact_sheet, heat, to_pixels

# MaxBoxAccV2 is the mean over these.
IOUS = (0.3, 0.5, 0.7)
HIT = 0.5  # the IoU of Top-1 and GT-known Loc Acc
# Thresholds that MaxBoxAccV2 chooses from; wsolevaluation's own default is ten times as fine, at ten times the price.
THRESHOLDS = np.arange(100) / 100
# Edges of the centred boxes, as shares of those of the image: what a map has to beat.
CENTRED = np.arange(1, 21) / 20
# Pixels that touch by a corner hang together.
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)

# The contact sheet; colours as in CutMix, Figure 4.
SHOWN = 12  # images
ACROSS = 3  # of them in a row
SHEET_EDGE = 120  # px of the shorter edge, at least
TRUE_COLOUR = (255, 0, 0)
FOUND_COLOUR = (0, 255, 0)
BORDER = 2  # px


def localization(
    subject: Subject, batches: Batches, boxes: Callable[[int], Tensor], cam_threshold: float = 0.2
) -> Report:
    """Weakly supervised object localization by class activation maps.

    The map of the label's class is scaled up to the image (bilinear) and its range to [0, 1]. The box of a threshold is
    that around a connected region (of 8 neighbours) of the places that reach it. A box that was found fits where its
    IoU with any of the true ones is large enough.

    Args:
        subject: Classifier.
        batches: Validation images.
        boxes: The true boxes (n, 4) of an image by its number, in pixels of the batch's images; an image without one
            is left out.
        cam_threshold: Share of the map's maximum at which its box is cut out (Zhou et al. 2016: 0.2).

    Returns:
        `top1`, `gt_known`: Top-1 and GT-known Loc Acc. The box of the largest region at `cam_threshold` has an IoU of
        at least 0.5; for top-1 the class, too, is predicted, so that the map of either is the same.
        `max_box_acc_v2`: As Choe et al. 2020 define it in wsolevaluation: the box of any region may fit, at the
        threshold that serves all images best; the mean over IoU 0.3, 0.5 and 0.7, which follow.
        `center`, `center_max_box_acc_v2`: What a box in the middle of the image reaches, its size chosen likewise.

    Raises:
        ValueError: No image has a box.
    """
    activation = ClassActivation(subject.bare)
    tally = Tally()
    shown = Examples(SHOWN)
    for x, target, numbers in batches:
        true = [boxes(number) for number in numbers]
        rows = [row for row, of_image in enumerate(true) if len(of_image)]
        tally.left_out += len(numbers) - len(rows)
        if not rows:
            continue
        x, target = x[rows], target[rows]
        with torch.no_grad():
            predicted = subject.logits(x).argmax(1).tolist()
        label = target if subject.classes is None else torch.as_tensor(subject.classes, device=target.device)[target]
        maps = subject.forward(activation, x, label)
        maps = to_unit(F.interpolate(maps, x.shape[-2:], mode='bilinear', align_corners=False))
        labels = target.tolist()
        for image, of_image, row, label, other in zip(x, maps[:, 0].cpu(), rows, labels, predicted):
            found = largest_box(of_image.numpy(), cam_threshold)
            tally.add(of_image.numpy(), found, true[row], label == other)
            shown.offer(Found(image, of_image, true[row], found, label, other))

    tally = tally.total(subject)
    if not tally.images:
        raise ValueError(
            f'--evaluate localization: none of the {int(tally.left_out)} images used has a box within its crop: use '
            'more images with --eval-samples, or more of each image with --crop-pct 1.'
        )
    curves, centred = (100 * counts.double() / tally.images for counts in (tally.fitting, tally.centred))
    best, best_centred = curves.max(0), centred.max(0)
    at_hit, columns = IOUS.index(HIT), {f'IoU {iou:g}': column for iou, column in zip(IOUS, curves.T)}
    return Report(
        'localization',
        values=dict(
            top1=100 * (tally.top1 / tally.images).item(),
            gt_known=100 * (tally.gt_known / tally.images).item(),
            max_box_acc_v2=best.values.mean().item(),
            **{f'max_box_acc_{round(100 * iou)}': value for iou, value in zip(IOUS, best.values.tolist())},
            center=best_centred.values[at_hit].item(),
            center_max_box_acc_v2=best_centred.values.mean().item(),
        ),
        settings=dict(
            map=activation.method,
            cam_threshold=cam_threshold,
            images=int(tally.images),
            left_out=int(tally.left_out),
            best_thresholds=[THRESHOLDS[place].item() for place in best.indices.tolist()],
            center_edge=CENTRED[best_centred.indices[at_hit]].item(),
        ),
        note="The box around the largest region (8 neighbours) of the label's map, scaled to [0, 1], at the "
        'threshold. MaxBoxAccV2 accepts any region, at the threshold (in steps of 0.01) that is best for the '
        'whole set, so it has seen the boxes. Compare with center, a box in the middle that has seen no image.',
        panels=[
            Panel(
                f'any region fits, {activation.method}',
                'threshold of the map',
                'images in %',
                {label: (THRESHOLDS.tolist(), column.tolist()) for label, column in columns.items()},
                marked=cam_threshold,
                intervals={label: percent_interval(column, int(tally.images)) for label, column in columns.items()},
                baseline='box in the middle',
                baselines={
                    label: ([0, 1], [reached] * 2) for label, reached in zip(columns, best_centred.values.tolist())
                },
            )
        ],
        picture=draw(subject, shown.chosen, cam_threshold) if subject.rank == 0 and shown.chosen else None,
    )


@dataclass
class Tally:
    """Counts of images, all int64.

    Attributes:
        images: Those with a box.
        left_out: Those without.
        gt_known: The box of the largest region fits at IoU 0.5.
        top1: The same, and the class is predicted.
        fitting: (thresholds, IoUs) a box of any region fits.
        centred: (sizes, IoUs) a box in the middle fits.
    """

    images: Tensor = field(default_factory=partial(torch.zeros, (), dtype=torch.int64))
    left_out: Tensor = field(default_factory=partial(torch.zeros, (), dtype=torch.int64))
    gt_known: Tensor = field(default_factory=partial(torch.zeros, (), dtype=torch.int64))
    top1: Tensor = field(default_factory=partial(torch.zeros, (), dtype=torch.int64))
    fitting: Tensor = field(default_factory=partial(torch.zeros, len(THRESHOLDS), len(IOUS), dtype=torch.int64))
    centred: Tensor = field(default_factory=partial(torch.zeros, len(CENTRED), len(IOUS), dtype=torch.int64))

    def add(self, scaled: np.ndarray, found: Tensor | None, true: Tensor, is_predicted: bool) -> None:
        """Counts an image.

        Args:
            scaled: Map (H, W) in [0, 1].
            found: Its box (4,), or None.
            true: Boxes (n, 4).
            is_predicted: Whether the largest logit is the label's.
        """
        fits = found is not None and bool(box_iou(found[None], true).amax() >= HIT)
        self.images += 1
        self.gt_known += fits
        self.top1 += fits and is_predicted
        self.fitting += reached(best_overlaps(scaled, true))
        self.centred += reached(box_iou(centred_boxes(scaled.shape), true).amax(1))

    def total(self, subject: Subject) -> 'Tally':
        """The sum over processes."""
        return Tally(*(subject.total(getattr(self, part.name).to(subject.device)).cpu() for part in fields(self)))


class Found(NamedTuple):
    """An image (C, H, W) as the model saw it, its map (H, W) in [0, 1], true boxes (n, 4) and the one found (4,), its
    class and the one that was predicted."""

    image: Tensor
    map: Tensor
    true: Tensor
    box: Tensor | None
    label: int
    predicted: int


class Examples:
    """A few images of as many classes as can be.

    Args:
        count: How many.
    """

    def __init__(self, count: int):
        self.count = count
        self.of_classes: dict[int, Found] = {}
        self.others: list[Found] = []

    def offer(self, found: Found) -> None:
        """Takes an image that comes by, if it is among the first of its class, or of all."""
        if found.label not in self.of_classes and len(self.of_classes) < self.count:
            self.of_classes[found.label] = found._replace(image=found.image.cpu())
        elif len(self.others) < self.count:
            self.others.append(found._replace(image=found.image.cpu()))

    @property
    def chosen(self) -> list[Found]:
        """The images, by class; further ones of the same classes where there are too few classes."""
        found = [*self.of_classes.values(), *self.others][: self.count]
        return sorted(found, key=lambda each: each.label)


def to_unit(maps: Tensor) -> Tensor:
    """Maps (B, 1, H, W), the range of each scaled to [0, 1]; a constant one, or what is not finite, is 0 everywhere."""
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return ((maps - low) / (high - low)).nan_to_num(0.0, 0.0, 0.0)


def regions(scaled: np.ndarray, threshold: float) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    """Connected regions of the places that reach a threshold: their numbers from 1 on, (H, W), and their extents."""
    from scipy import ndimage

    labels, _ = ndimage.label(scaled >= threshold, EIGHT_NEIGHBOURS)
    return labels, ndimage.find_objects(labels)


def largest_box(scaled: np.ndarray, threshold: float) -> Tensor | None:
    """The box (4,), XYXY, of the region with the most pixels; None where no place reaches the threshold.

    Args:
        scaled: Map (H, W) in [0, 1].
        threshold: Share of its maximum.
    """
    labels, extents = regions(scaled, threshold)
    if not extents:
        return None
    return to_boxes([extents[np.bincount(labels.ravel())[1:].argmax()]])[0]


def best_overlaps(scaled: np.ndarray, true: Tensor) -> Tensor:
    """How well the best box of each threshold fits any of the true ones.

    Args:
        scaled: Map (H, W) in [0, 1].
        true: Boxes (n, 4).

    Returns:
        IoU (thresholds,), 0 where there is no region.
    """
    extents = [regions(scaled, threshold)[1] for threshold in THRESHOLDS]
    best = torch.zeros(len(THRESHOLDS))
    threshold = torch.tensor([place for place, found in enumerate(extents) for _ in found], dtype=torch.int64)
    if len(threshold):
        overlaps = box_iou(to_boxes([box for found in extents for box in found]), true).amax(1)
        best.scatter_reduce_(0, threshold, overlaps, 'amax')
    return best


def to_boxes(extents: Sequence[tuple[slice, slice]]) -> Tensor:
    """Extents in rows and columns as boxes (n, 4), XYXY, half-open."""
    return torch.tensor([[x.start, y.start, x.stop, y.stop] for y, x in extents], dtype=torch.float32)


def centred_boxes(size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) in the middle of an image of a size (H, W), with the edges `CENTRED`."""
    half = torch.from_numpy(CENTRED).float()[:, None] / 2
    height, width = size
    return torch.cat([0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half], dim=1) * half.new_tensor([width, height] * 2)


def reached(overlaps: Tensor) -> Tensor:
    """Which of `IOUS` overlaps (n,) reach: bool (n, 3)."""
    return overlaps[:, None] >= torch.tensor(IOUS)


def draw(subject: Subject, shown: Sequence[Found], cam_threshold: float) -> Image.Image:
    """Contact sheet of images and their maps, with the true boxes and the one that was found."""
    pixels = to_pixels(
        torch.stack([found.image for found in shown]), subject.mean.flatten().tolist(), subject.std.flatten().tolist()
    )
    columns = {'image': pixels, 'map': heat(torch.stack([found.map for found in shown])[:, None])}
    scale = max(1, SHEET_EDGE // min(pixels.shape[-2:]))
    columns = {
        label: torch.stack([outlined(picture, found, scale) for picture, found in zip(pictures, shown)])
        for label, pictures in columns.items()
    }
    return contact_sheet(
        columns,
        captions=[describe_answer(subject, found) for found in shown],
        titles=[f'{subject.name}: true boxes in red, the box at threshold {cam_threshold:g} in green'],
        edge=SHEET_EDGE,
        across=ACROSS,
    )


def describe_answer(subject: Subject, found: Found) -> str:
    """What is on an image, and what it was taken for."""
    label, predicted = (subject.name_class(number) for number in (found.label, found.predicted))
    return label if label == predicted else f'{label}, taken for {predicted}'


def outlined(picture: Tensor, found: Found, scale: int) -> Tensor:
    """A picture (3, H, W), enlarged, with the borders of the boxes."""
    picture = picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    for boxes, colour in ((found.true, TRUE_COLOUR), (found.box, FOUND_COLOUR)):
        if boxes is not None:
            corners = (scale * boxes.view(-1, 4)).round() - boxes.new_tensor([0, 0, 1, 1])  # the last pixels are theirs
            picture = draw_bounding_boxes(picture, corners, colors=colour, width=BORDER)
    return picture
