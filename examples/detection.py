"""What an exported backbone is worth to a detector: Faster R-CNN with FPN, fine-tuned from it and from random weights.

The images are mosaics of four cluttered digits (80x80 px), whose boxes are known. The backbone is any timm network that
train.py has trained and `python -m keepaug.export timm` has exported. A detector of the same seed begins with the
architecture alone. Each result is a row of the table; rows that are there are not measured again. docs/detection.md has
the commands and what was measured.

    python examples/detection.py --backbone backbone-0 --seed 0 --output detection.csv
    python examples/detection.py --coco digits  # the same data as files, for Detectron2
"""

import argparse
import csv
import json
import shlex
from pathlib import Path

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.functional import to_pil_image

from keepaug.console import explain_errors
from keepaug.datasets import ClutteredDigits
from keepaug.files.outputs import check_output_folder
from keepaug.installation import command
from keepaug.ranges import COUNT
from keepaug.study.statistics import difference_of, spread_of

TILE = 40  # px, a cluttered digit
SIZE = 2 * TILE
FIRST = {'train': 4000, 'validation': 1000}  # images before these are those that the backbone was trained on
# How each arm begins. Batch norm of random weights has no statistics to freeze.
ARMS = {
    'random': dict(exported=False, frozen_norm=False),
    'exported': dict(exported=True, frozen_norm=False),
    'exported, norm frozen': dict(exported=True, frozen_norm=True),
}
COLUMNS = ('arm', 'seed', 'images', 'validation_images', 'epochs', 'map', 'map_50')


def draw_images(split: str, count: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Four cluttered digits in a square: an image (3, 80, 80) in [0, 1], and boxes (4, 4) XYXY with labels 1 to 10.

    Label 0 is the background's. Digits of 'validation' are of other handwritings than those of 'train'.
    """
    first = FIRST[split]
    digits = ClutteredDigits(split, num_samples=first + 4 * count)
    samples = []
    for start in range(first, first + 4 * count, 4):
        image, boxes, labels = torch.empty(3, SIZE, SIZE), [], []
        for tile in range(4):
            top, left = TILE * (tile // 2), TILE * (tile % 2)
            image[:, top : top + TILE, left : left + TILE] = digits.image(start + tile) / 255
            boxes.append(digits.box(start + tile) + torch.tensor([left, top, left, top]))
            labels.append(digits.target(start + tile) + 1)
        samples.append((image, dict(boxes=torch.stack(boxes).float(), labels=torch.tensor(labels))))
    return samples


class Backbone(nn.Module):
    """A timm network with a feature pyramid on its maps of strides 4, 8, 16 and 32, as torchvision's detectors want it.

    Args:
        folder: What `python -m keepaug.export timm` wrote.
        exported: Whether to begin with the exported weights, and not with random ones.
        frozen_norm: Whether batch norm keeps its statistics, scale and shift.
    """

    def __init__(self, folder: str, exported: bool, frozen_norm: bool, out_channels: int = 64):
        super().__init__()
        body = timm.create_model(f'local-dir:{folder}', pretrained=exported, features_only=True)
        self.mean, self.std = (list(body.pretrained_cfg[name]) for name in ('mean', 'std'))
        self.indices = [body.feature_info.reduction().index(stride) for stride in (4, 8, 16, 32)]
        channels = [body.feature_info.channels()[index] for index in self.indices]
        self.body = freeze_batch_norm_2d(body) if frozen_norm else body
        self.pyramid = FeaturePyramidNetwork(channels, out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body(x)
        return self.pyramid({str(level): maps[index] for level, index in enumerate(self.indices)})


def create_detector(backbone: Backbone) -> FasterRCNN:
    """Faster R-CNN with anchors for digits of 8 to 24 px, and fewer regions than for photographs."""
    return FasterRCNN(
        backbone,
        min_size=SIZE,
        max_size=SIZE,
        image_mean=backbone.mean,
        image_std=backbone.std,
        rpn_anchor_generator=AnchorGenerator(((12,), (24,), (48,), (96,), (192,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        box_head=TwoMLPHead(backbone.out_channels * 7**2, 256),
        box_predictor=FastRCNNPredictor(256, 11),
        box_batch_size_per_image=32,
        box_detections_per_img=20,
    )


def to_lists(samples: list) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch as torchvision's detectors take it."""
    images, targets = zip(*samples)
    return list(images), list(targets)


def fine_tune(detector: FasterRCNN, data: list, epochs: int, batch: int = 8, lr: float = 1e-3) -> None:
    """AdamW, which random weights need where steps are so few; a tenth of the steps to warm up, and a decay."""
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, collate_fn=to_lists)
    optimizer = torch.optim.AdamW([parameter for parameter in detector.parameters() if parameter.requires_grad], lr)
    schedule = OneCycleLR(
        optimizer, lr, epochs=epochs, steps_per_epoch=len(loader), pct_start=0.1, cycle_momentum=False
    )
    detector.train()
    for epoch in range(epochs):
        total = 0.0
        for images, targets in loader:
            loss = sum(detector(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f'  epoch {epoch}: loss {total / len(loader):.3f}', flush=True)


@torch.inference_mode()
def measure(detector: FasterRCNN, data: list) -> dict[str, float]:
    """COCO's mean average precision in percent, over IoU thresholds 0.5 to 0.95 and at 0.5."""
    metric = MeanAveragePrecision()
    detector.eval()
    for images, targets in DataLoader(data, 16, collate_fn=to_lists):
        metric.update(detector(images), targets)
    result = metric.compute()
    return {name: 100 * result[name].item() for name in ('map', 'map_50')}


def read_table(path: Path, setting: dict[str, int]) -> dict[str, dict[int, float]]:
    """mAP by arm and seed of one setting."""
    found = {arm: {} for arm in ARMS}
    if path.is_file():
        try:
            with open(path, newline='') as file:
                for row in csv.DictReader(file):
                    if all(int(row[name]) == value for name, value in setting.items()):
                        found[row['arm']][int(row['seed'])] = float(row['map'])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'--output {path} is no table of this script: name a new file.') from error
    return found


def append_row(path: Path, row: dict) -> None:
    new = not path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'a', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def write_coco(folder: Path, split: str, images: int) -> None:
    """Writes images and `<split>.json` as COCO has them: boxes XYWH, category ids from 1."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    described, annotations = [], []
    for index, (image, target) in enumerate(draw_images(split, images)):
        name = f'{index:06}.png'
        to_pil_image(image).save(folder / split / name)
        described.append(dict(id=index + 1, file_name=name, height=SIZE, width=SIZE))
        for (left, top, right, bottom), label in zip(target['boxes'].tolist(), target['labels'].tolist()):
            width, height = right - left, bottom - top
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index + 1,
                    category_id=label,
                    bbox=[left, top, width, height],
                    area=width * height,
                    iscrowd=0,
                )
            )
    categories = [dict(id=digit + 1, name=str(digit)) for digit in range(10)]
    content = dict(images=described, annotations=annotations, categories=categories)
    (folder / f'{split}.json').write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--backbone', metavar='FOLDER', help='what python -m keepaug.export timm wrote')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the detectors')
    parser.add_argument('--images', type=int, default=200, metavar='N', help='images to train on')
    parser.add_argument('--validation-images', type=int, default=100, metavar='N', help='images to measure on')
    parser.add_argument('--epochs', type=int, default=6, metavar='N', help='passes over them')
    parser.add_argument(
        '--output', type=Path, default=Path('detection.csv'), metavar='FILE', help='table of the results'
    )
    parser.add_argument('--coco', type=Path, metavar='DIR', help='write the data there and train nothing')
    args = parser.parse_args()
    for flag in ('--images', '--validation-images', '--epochs'):
        COUNT.check(flag, vars(args)[flag[2:].replace('-', '_')])
    if args.coco:
        check_output_folder(str(args.coco), '--coco')
        write_coco(args.coco, 'train', args.images)
        write_coco(args.coco, 'validation', args.validation_images)
        return
    if args.backbone is None:
        parser.error('--backbone FOLDER is needed, or --coco DIR.')
    if not Path(args.backbone, 'config.json').is_file():
        raise ValueError(f'--backbone {args.backbone} is no folder that {shlex.join(command("export"))} timm wrote.')
    check_output_folder(str(args.output.parent), '--output')
    setting = dict(images=args.images, validation_images=args.validation_images, epochs=args.epochs)
    read_table(args.output, setting)
    train, validation = draw_images('train', args.images), draw_images('validation', args.validation_images)
    for arm, begin in ARMS.items():
        if args.seed in read_table(args.output, setting)[arm]:
            continue
        print(f'{arm}, seed {args.seed}', flush=True)
        torch.manual_seed(args.seed)
        detector = create_detector(Backbone(args.backbone, **begin))
        fine_tune(detector, train, args.epochs)
        row = dict(arm=arm, seed=args.seed, **setting, **measure(detector, validation))
        append_row(args.output, row)
        print(f'  mAP {row["map"]:.1f} %, at an IoU of 0.5 {row["map_50"]:.1f} %', flush=True)
    found = read_table(args.output, setting)
    for arm, values in found.items():
        print(f'{arm}: mAP {spread_of(list(values.values()))}')
        if arm != 'random':
            print(f'  minus random, by seed, with its 95% interval: {difference_of(values, found["random"])}')


if __name__ == '__main__':
    explain_errors(main)
