"""How well recycled maps choose the regions that the full pass of the current model would choose, over a training.

    python benchmarks/recycled_agreement.py --data-dir /data/cifar10 --output recycled_agreement.csv

A small network learns some of the images, cut by keep-cut with recycled saliency. Its backward passes write maps of
several sizes and blends at once, of which one guides the cuts. Now and then, on new crops of training images that the
model in training has not seen yet: the full map of the current model is the truth, and each way to a map is judged by

 - the rank correlation of its window scores with those of the truth,
 - the share of the windows it admits to cutting (below the tau-quantile) that the truth admits too,
 - the share of the most salient tenth of the pixels that is left where a window it admits is cut.

All images together, and by the tercile of their own loss (0: the smallest), for fitted samples have small gradients.
Every row is a mean with half of its 95% interval over n images. The file is added to after every measurement, and a run
that was stopped goes on from there.
"""

import argparse
import csv
import math
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from saliency_agreement import rank_correlation, shared_choice
from timm.data import create_dataset, resolve_data_config
from torch import Tensor

import keepaug
from keepaug import EarlyExit, options
from keepaug.augment.recycled import SaliencyMaps
from keepaug.augment.saliency import PASSES, SaliencySource
from keepaug.data.loaders import build_train_loader, set_epoch
from keepaug.data.places import split_target
from keepaug.data.seeding import preserved_streams
from keepaug.data.wrapped import Selection
from keepaug.files.drafts import whole_file
from keepaug.functional import boxes_to_mask, input_saliency, region_scores, sample_regions
from keepaug.functional.saliency import in_eval_mode
from keepaug.functional.saliency_maps import Places, blend_maps, decode_maps, encode_maps, lay_back
from keepaug.measuring.intervals import half_width
from keepaug.methods import wrap_loader

CROPS = {'pad4': '--train-crop-mode pad4', 'rrc': '--scale 0.25 1', 'rrc008': '--scale 0.08 1'}
MAPS = [(cells, kept) for cells in (8, 16, 32) for kept in (0.0, 0.5, 0.8)]
DRAWS = 4  # cuts per image of which the share left is the mean
COLUMNS = (
    'crop',
    'seed',
    'epoch',
    'way',
    'cells',
    'kept',
    'loss_tercile',
    'n',
    'rank_correlation',
    'rank_correlation_half',
    'shared_choice',
    'shared_choice_half',
    'tenth_left',
    'tenth_left_half',
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-dir', required=True, help='image folder; its train split is used')
    parser.add_argument('--model', default='cifar_resnet18')
    parser.add_argument('--width', type=int, default=16, help='channels of the first stage; the paper has 64')
    parser.add_argument('--images', type=int, default=2000)
    parser.add_argument('--epochs', type=int, default=21)
    parser.add_argument('-b', '--batch-size', type=int, default=64)
    parser.add_argument('--lr', type=float, default=0.1)
    parser.add_argument('--crops', nargs='+', choices=CROPS, default=list(CROPS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--measured', type=int, default=500, help='images of a measurement')
    parser.add_argument('--every', type=int, default=3, help='epochs between measurements')
    parser.add_argument('--size', type=int, default=16, help='edge of the window in pixels')
    parser.add_argument('--tau', type=float, default=0.6)
    parser.add_argument('--output', type=Path, required=True)
    args = parser.parse_args()
    for seed in args.seeds:
        for crop in args.crops:
            Training(args, crop, seed).run()


class Training:
    """A training with one crop and seed, its state in a file beside the results."""

    def __init__(self, args: argparse.Namespace, crop: str, seed: int):
        self.settings, self.crop, self.seed = args, crop, seed
        self.state_file = args.output.with_suffix(f'.{crop}-{seed}.pt')
        torch.manual_seed(seed)
        model = timm.create_model(args.model, num_classes=10, channels=[args.width * 2**stage for stage in range(4)])
        config = resolve_data_config({}, model=model)
        self.args = keepaug.prepare(
            options.create_parser().parse_args(
                [
                    str(args.data_dir),
                    *CROPS[crop].split(),
                    '--keep-cut',
                    '--keep-saliency',
                    'recycled',
                    '-j',
                    '0',
                    '-b',
                    str(args.batch_size),
                    '--no-prefetcher',
                    '--color-jitter',
                    '0',
                ]
            )
        )
        self.args.prefetcher, self.args.distributed = False, False
        dataset = create_dataset('', args.data_dir, split='train')
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[: args.images]
        dataset = keepaug.wrap_dataset(Selection(dataset, chosen.tolist()), self.args)
        loader = build_train_loader(self.args, dataset, config, torch.device('cpu'), torch.float32, None)
        self.loader = wrap_loader(loader, dataset, self.args)
        self.model = EarlyExit(model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, args.epochs)
        self.maps = {('recycled', *key): SaliencyMaps(args.images, *key) for key in MAPS}
        # Ways to do it otherwise: what is removed is written too; new maps are brought to the level of the old ones;
        # padding is read as if it continued the image (`border repeated`).
        self.maps['removed too', 16, 0.5] = SaliencyMaps(args.images, 16, 0.5)
        self.maps['aligned', 16, 0.5] = AlignedMaps(args.images, 16, 0.5)
        self.cut = keepaug.create_augment(
            'keep-cut', size=args.size, tau=args.tau, saliency='recycled', maps=self.maps['recycled', 16, 0.5]
        )
        self.epoch = 0

    def run(self) -> None:
        self.load()
        while self.epoch < self.settings.epochs:
            with preserved_streams(seed=1000 * self.seed + self.epoch):
                self.train()
            self.epoch += 1
            if self.epoch in (1, 2) or self.epoch % self.settings.every == 0:
                with preserved_streams(seed=self.seed):
                    rows = list(self.measure())
                self.save(rows)

    def train(self) -> None:
        self.model.train()
        set_epoch(self.loader, self.epoch)
        for x, joined in self.loader:
            target, where = split_target(joined)
            x, _ = self.cut(x, target, where=where)
            x = x.requires_grad_()
            logits, early = self.model(x)
            # The gradient of the main loss alone is recycled: the early head is there to be compared with.
            loss = F.cross_entropy(logits, target)
            (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
            saliency = gradient.abs().amax(1, keepdim=True)
            for (way, *_), maps in self.maps.items():
                maps.write(where, saliency, None if way == 'removed too' else self.cut.own_pixels())
            (loss + self.model.weight * F.cross_entropy(early, target)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.schedule.step()

    def measure(self) -> Iterator[dict]:
        x, joined = self.crops()
        target, where = split_target(joined)
        size = (self.settings.size,) * 2
        with torch.no_grad(), in_eval_mode(self.model):
            loss = F.cross_entropy(self.model(x), target, reduction='none')
        truth = input_saliency(self.model.backbone, x, target)
        expected = region_scores(truth, size).flatten(1)
        tenth = truth.flatten(1) >= truth.flatten(1).quantile(0.9, dim=1, keepdim=True)
        tercile = loss.argsort().argsort() * 3 // len(loss)
        for key, saliency in self.ways(x, target, where, truth):
            scores = region_scores(saliency, size)
            tau = None if key[0] == 'blind' else self.settings.tau
            boxes = [sample_regions(scores, size, tau) for _ in range(DRAWS)]
            left = [(tenth & ~boxes_to_mask(box, x.shape[-2:]).flatten(1)).sum(1) / tenth.sum(1) for box in boxes]
            values = dict(
                rank_correlation=rank_correlation(scores.flatten(1), expected),
                shared_choice=shared_choice(scores.flatten(1), expected, self.settings.tau),
                tenth_left=torch.stack(left).mean(0),
            )
            if key[0] == 'blind':  # equal scores have no order
                values['rank_correlation'] = torch.zeros(len(x))
                values['shared_choice'] = torch.full((len(x),), self.settings.tau)
            for number in ('all', 0, 1, 2):
                part = slice(None) if number == 'all' else tercile == number
                yield dict(
                    crop=self.crop,
                    seed=self.seed,
                    epoch=self.epoch,
                    way=key[0],
                    cells=key[1],
                    kept=key[2],
                    loss_tercile=number,
                    n=len(x[part]),
                    **{name: f'{mean(value[part]):.4f}' for name, value in values.items()},
                    **{f'{name}_half': f'{half_width(value[part]):.4f}' for name, value in values.items()},
                )

    def crops(self) -> tuple[Tensor, Tensor]:
        """New crops of training images, in an order of their own."""
        batches = iter(self.loader)
        parts = [next(batches) for _ in range(math.ceil(self.settings.measured / self.settings.batch_size))]
        return tuple(torch.cat(each)[: self.settings.measured] for each in zip(*parts))

    def ways(self, x: Tensor, target: Tensor, where: Tensor, truth: Tensor) -> Iterator[tuple[tuple, Tensor]]:
        """Maps (B, 1, H, W) by the way to them, with cells and blend of those that are kept."""
        yield ('full', '', ''), truth
        yield ('blind', '', ''), torch.zeros_like(truth)
        for kind in PASSES:
            if kind != 'full':
                yield (kind, '', ''), SaliencySource(self.model, kind)(x, target)
        for key, maps in self.maps.items():
            read = maps.read(where, x.shape[-2:])
            yield key, read
            if key == ('recycled', 16, 0.5):
                rows, columns = (part.sum(1) > 0 for part in Places.from_rows(where).to_cells(x.shape[-2:], 16))
                read = read.gather(2, nearest(rows)[:, None, :, None].expand_as(read))
                yield ('border repeated', 16, 0.5), read.gather(3, nearest(columns)[:, None, None].expand_as(read))

    def save(self, rows: list[dict]) -> None:
        is_new = not self.settings.output.exists()
        with self.settings.output.open('a', newline='') as file:
            writer = csv.DictWriter(file, COLUMNS)
            if is_new:
                writer.writeheader()
            writer.writerows(rows)
        state = dict(
            epoch=self.epoch,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            maps=[(maps.levels, maps.scales) for maps in self.maps.values()],
        )
        with whole_file(self.state_file) as draft:
            torch.save(state, draft)

    def load(self) -> None:
        if self.state_file.exists():
            state = torch.load(self.state_file)
            self.epoch = state['epoch']
            for name in ('model', 'optimizer', 'schedule'):
                getattr(self, name).load_state_dict(state[name])
            for maps, (levels, scales) in zip(self.maps.values(), state['maps']):
                maps.levels, maps.scales = levels, scales
        if self.settings.output.exists():
            self.drop_later_rows()

    def drop_later_rows(self) -> None:
        """Drops what a run wrote that was stopped before it kept its state; it is measured again."""
        with self.settings.output.open(newline='') as file:
            rows = list(csv.DictReader(file))
        this = (self.crop, str(self.seed))
        kept = [row for row in rows if (row['crop'], row['seed']) != this or int(row['epoch']) <= self.epoch]
        if len(kept) < len(rows):
            with whole_file(self.settings.output) as draft, open(draft, 'w', newline='') as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(kept)


class AlignedMaps(SaliencyMaps):
    """Maps in which a crop has the mean that its cells had before, where there are any."""

    def write(self, where: Tensor, saliency: Tensor, kept: Tensor | None = None) -> None:
        old, seen = decode_maps(self.levels[where[:, 0]], self.scales[where[:, 0]])
        new, now = lay_back(saliency, kept, Places.from_rows(where), self.cells)
        both = seen & now
        before, after = (torch.where(both, values, 0.0).sum((1, 2), keepdim=True) for values in (old, new))
        level = torch.where((before > 0) & (after > 0), before / after, 1.0)
        levels, scales = encode_maps(*blend_maps((old, seen), (new * level, now), self.kept))
        self.levels[where[:, 0]], self.scales[where[:, 0]] = levels, scales


def nearest(inside: Tensor) -> Tensor:
    """The nearest place (B, N) that is inside, for each of N in a row; those inside are neighbours."""
    place = torch.arange(inside.shape[1])
    first, last = inside.long().argmax(1, keepdim=True), (inside * (place + 1)).argmax(1, keepdim=True)
    return torch.minimum(torch.maximum(place, first), last)


def mean(values: Tensor) -> float:
    return values.double().mean().item()


if __name__ == '__main__':
    main()
