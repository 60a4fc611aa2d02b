r"""Person re-identification: a strong baseline, and random erasing that spares what tells persons apart.

KeepAugment, section 4.4, Table 8, follows "Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (Luo
et al., 2019): identity loss with smoothed labels and batch-hard triplets, batches of 16 persons with 4 images each, a
batch norm as neck between the two losses, no stride in the last stage, warm-up, random erasing. Its centre loss is not
here. With `--keep` regions are erased where they say little about the person. Needs `pip install -e '.[examples]'`.

    python examples/reidentification.py --data-dir Market-1501-v15.09.15 --model resnet50 --pretrained --keep

    # on drawn persons, seconds of a CPU
    python examples/reidentification.py --draw-toys toys
    python examples/reidentification.py --data-dir toys --model test_resnet --size 64 32 --epochs 16 --lr 2e-3 \
        --persons 8 --workers 0 --keep

`--data-dir` has Market-1501's own folders (bounding_box_train, query, bounding_box_test) and file names, which tell
person and camera: 0002_c1s1_000451_03.jpg. Person 0000 is a distractor, -1 is junk.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import keepaug
from keepaug.console import explain_errors
from keepaug.ranges import COUNT

FILE_NAME = re.compile(r'(-1|\d{4})_c(\d+)s\d+_\d+_\d+')
FOLDERS = ('bounding_box_train', 'query', 'bounding_box_test')
JUNK, DISTRACTOR = -1, 0


class Persons(Dataset):
    """A folder of Market-1501: images, and their persons and cameras as file names tell them. Junk is left out."""

    def __init__(self, folder: Path, transform: v2.Transform):
        matches = [(path, FILE_NAME.match(path.name)) for path in sorted(folder.glob('*.jpg'))]
        seen = [(path, int(match[1]), int(match[2])) for path, match in matches if match]
        self.images = [(path, person, camera) for path, person, camera in seen if person != JUNK]
        if not self.images:
            raise ValueError(f'{folder} has no images that are named like 0002_c1s1_000451_03.jpg.')
        self.persons = torch.tensor([person for _, person, _ in self.images])
        self.cameras = torch.tensor([camera for _, _, camera in self.images])
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.images[index][0]) as image:
            return self.transform(image.convert('RGB')), self.persons[index]


class ReidentificationModel(nn.Module):
    """A timm backbone whose features are compared, a batch norm behind them, and a classifier of the training persons.

    `forward` gives logits, which is what keepaug explains.
    """

    def __init__(self, backbone: nn.Module, persons: int):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.BatchNorm1d(backbone.num_features)
        self.neck.bias.requires_grad_(False)  # features around the origin: the classifier tells angles apart
        self.classifier = nn.Linear(backbone.num_features, persons, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.neck(self.backbone(x)))


def take_last_stride(backbone: nn.Module) -> None:
    """Makes the last stage of a ResNet work at the resolution of the one before: finer features, the same weights.

    Raises:
        ValueError: Other networks have no such stage.
    """
    stage = getattr(backbone, 'layer4', nn.Identity())
    leaves = [module for module in stage.modules() if not list(module.children())]
    strided = [module for module in leaves if getattr(module, 'stride', 1) in (2, (2, 2))]
    if not strided or not all(isinstance(module, (nn.Conv2d, nn.AvgPool2d)) for module in strided):
        raise ValueError('--last-stride 1 is for ResNets with plain or averaged shortcuts: use --last-stride 2.')
    for module in strided:
        module.stride = (1, 1)
        if isinstance(module, nn.AvgPool2d):
            module.kernel_size = 1  # of a shortcut: with nothing to halve, nothing to average


def create_transforms(size: list[int], mean: list[float], std: list[float]) -> tuple[v2.Transform, v2.Transform]:
    """For training and for evaluation. Erasing comes later, on the device."""
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    resize = v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC)
    shift = [v2.Pad(size[0] // 25), v2.RandomCrop(size)]  # 10 px of 256
    return v2.Compose([resize, v2.RandomHorizontalFlip(), *shift, *to_tensor]), v2.Compose([resize, *to_tensor])


def train(model: ReidentificationModel, loader: DataLoader, args: argparse.Namespace) -> None:
    # The same regions in size and number; tau None draws their places blindly, which is random erasing.
    erase = keepaug.create_augment('keep-cut', model=model, mode='erase', prob=0.5, tau=0.6 if args.keep else None)
    # Not normalised: that is for the neck's features. The mean over all triplets, those without a loss too.
    distance = LpDistance(normalize_embeddings=False)
    miner = BatchHardMiner(distance=distance)
    triplet_loss = TripletMarginLoss(margin=0.3, distance=distance, reducer=MeanReducer())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=args.lr, weight_decay=5e-4)
    schedule = ChainedScheduler(  # of 120 epochs 10, 40 and 70
        [
            LinearLR(optimizer, start_factor=0.1, total_iters=max(1, args.epochs // 12)),
            MultiStepLR(optimizer, [args.epochs // 3, args.epochs * 7 // 12], gamma=0.1),
        ]
    )
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for x, person in loader:
            x, person = erase(x.to(args.device), person.to(args.device))
            features = model.backbone(x)
            logits = model.classifier(model.neck(features))
            identity = F.cross_entropy(logits, person, label_smoothing=0.1)
            loss = identity + triplet_loss(features, person, miner(features, person))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        print(f'epoch {epoch:3d}  loss {total / len(loader):.3f}')


@torch.inference_mode()
def embed(model: ReidentificationModel, data: Persons, args: argparse.Namespace) -> Tensor:
    """The neck's features (N, D), which cosines compare."""
    model.eval()
    loader = DataLoader(data, batch_size=128, num_workers=args.workers)
    return torch.cat([model.neck(model.backbone(x.to(args.device))) for x, _ in loader])


class RetrievalAccuracy(AccuracyCalculator):
    """pytorch-metric-learning's accuracies, and the share of queries with the person among the first five."""

    def calculate_rank_5(self, knn_labels: Tensor, query_labels: Tensor, **others) -> float:
        return (knn_labels[:, :5] == query_labels[:, None]).any(1).double().mean().item()


def rank(
    query: Tensor,
    query_persons: Tensor,
    query_cameras: Tensor,
    gallery: Tensor,
    gallery_persons: Tensor,
    gallery_cameras: Tensor,
) -> dict[str, float]:
    """Rank-1, rank-5 and mAP as Market-1501 counts them.

    A query does not look among the images of the same person from its own camera. Distractors are images of no one who
    is sought. Queries whose person no other camera saw do not count.
    """
    names = {'rank-1': 'precision_at_1', 'rank-5': 'rank_5', 'mAP': 'mean_average_precision'}
    nearest = CustomKNN(CosineSimilarity())
    calculator = RetrievalAccuracy(include=tuple(names.values()), knn_func=nearest, device=query.device)
    sums, counted = dict.fromkeys(names, 0.0), 0
    for person, camera in torch.stack([query_persons, query_cameras], 1).unique(dim=0):
        own = (query_persons == person) & (query_cameras == camera)
        allowed = (gallery_persons != person) | (gallery_cameras != camera)
        if not (gallery_persons[allowed] == person).any():
            continue
        found = calculator.get_accuracy(query[own], query_persons[own], gallery[allowed], gallery_persons[allowed])
        counted += int(own.sum())
        for name, measured in names.items():
            sums[name] += int(own.sum()) * found[measured]
    if not counted:
        raise ValueError('No one who is sought is in the gallery under another camera: give images of several cameras.')
    return {name: 100 * total / counted for name, total in sums.items()}


def evaluate(model: nn.Module, query: Persons, gallery: Persons, args: argparse.Namespace) -> dict[str, float]:
    """Rank-1, rank-5 and mAP in percent."""
    sets = []
    for data in (query, gallery):
        sets += [embed(model, data, args), data.persons.to(args.device), data.cameras.to(args.device)]
    return rank(*sets)


def draw_toy_persons(folder: Path, persons: int = 32, cameras: int = 3, images: int = 3) -> None:
    """Writes drawn persons in Market-1501's layout: a pattern each, in the light of a camera, in front of noise.

    The first half of the persons is trained on, the other half sought, among distractors and junk.
    """
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (persons + 1, 5, 3), dtype=np.uint8)
    lights = random.uniform(0.3, 1.0, (cameras + 1, 3))
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    for person in (JUNK, DISTRACTOR, *range(1, persons + 1)):
        for camera in range(1, cameras + 1):
            for frame in range(images):
                pattern = patterns[person] if person > 0 else random.integers(0, 256, (5, 3), dtype=np.uint8)
                pixels = random.integers(0, 256, (64, 32)).astype(float)
                top, left = random.integers(0, 24), random.integers(0, 8)
                pixels[top : top + 40, left : left + 24] = np.kron(pattern, np.ones((8, 8)))
                tested = 'query' if frame == 0 and person > 0 else 'bounding_box_test'
                place = 'bounding_box_train' if 1 <= person <= persons // 2 else tested
                number = f'{person:04}' if person >= 0 else '-1'
                image = Image.fromarray((pixels[..., None] * lights[camera]).astype(np.uint8))
                image.save(folder / place / f'{number}_c{camera}s1_{frame:06}_00.jpg', quality=95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--data-dir', type=Path, metavar='DIR', help='the folder of Market-1501')
    source.add_argument(
        '--draw-toys', type=Path, metavar='DIR', help='write small drawn persons there and train nothing'
    )
    parser.add_argument(
        '--model', default='resnet50', metavar='NAME', help='any that timm creates, local-dir:FOLDER too'
    )
    parser.add_argument('--pretrained', action='store_true', help='begin with published weights')
    parser.add_argument('--last-stride', type=int, choices=(1, 2), default=1, help='of the last stage of a ResNet')
    parser.add_argument('--keep', action='store_true', help='erase where the saliency is low')
    parser.add_argument(
        '--size', type=int, nargs=2, default=[256, 128], metavar=('H', 'W'), help='of the images, in px'
    )
    parser.add_argument('--epochs', type=int, default=120, metavar='N')
    parser.add_argument('--lr', type=float, default=3.5e-4, metavar='LR')
    parser.add_argument('--persons', type=int, default=16, metavar='P', help='in a batch')
    parser.add_argument('--images', type=int, default=4, metavar='K', help='of each person in a batch')
    parser.add_argument('--workers', type=int, default=4, metavar='N')
    parser.add_argument('--seed', type=int, default=0, metavar='N')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    for name in ('epochs', 'persons', 'images', 'size'):
        for number in np.atleast_1d(vars(args)[name]).tolist():
            COUNT.check(f'--{name}', number)
    if args.draw_toys:
        if args.draw_toys.exists():
            raise ValueError(f'--draw-toys {args.draw_toys} exists: name a new folder.')
        draw_toy_persons(args.draw_toys)
        return
    for name in FOLDERS:
        if not (args.data_dir / name).is_dir():
            raise ValueError(f'--data-dir {args.data_dir} has no folder {name}: name the folder of Market-1501.')
    if ':' not in args.model and not timm.is_model(args.model):
        raise ValueError(f'--model {args.model} is none of timm.list_models(): name one of these.')

    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # pytorch-metric-learning's sampler draws from it
    backbone = timm.create_model(args.model, pretrained=args.pretrained, num_classes=0)
    if args.last_stride == 1:
        take_last_stride(backbone)
    augmented, plain = create_transforms(args.size, backbone.pretrained_cfg['mean'], backbone.pretrained_cfg['std'])
    sets = zip(FOLDERS, (augmented, plain, plain))
    data, query, gallery = (Persons(args.data_dir / name, transform) for name, transform in sets)
    classes, data.persons = data.persons.unique(return_inverse=True)  # counted from 0, for the classifier
    if args.persons > len(classes):
        raise ValueError(f'--persons {args.persons} is more than the {len(classes)} persons to train on: lower it.')
    batch = args.persons * args.images
    sampler = MPerClassSampler(data.persons, m=args.images, batch_size=batch, length_before_new_iter=len(data))
    loader = DataLoader(data, batch, sampler=sampler, num_workers=args.workers, persistent_workers=args.workers > 0)
    model = ReidentificationModel(backbone, len(classes)).to(args.device)
    before = evaluate(model, query, gallery, args)
    train(model, loader, args)
    after = evaluate(model, query, gallery, args)
    print('  '.join(f'{name} {value:.1f} %' for name, value in after.items()))
    print(f'mAP {before["mAP"]:.0f}% before training, {after["mAP"]:.0f}% after')


if __name__ == '__main__':
    explain_errors(main)
