"""What a GPU makes of keep-cut: the price of every saliency, its memory, and a small study on CIFAR-10.

    python benchmarks/on_gpu.py --data-dir /data/cifar10 --minutes 6      # called by on_gpu.sh
    python benchmarks/on_gpu.py --device cpu --tiny         # every line of it, with numbers that say nothing

Prices are those of `step_cost.py`: ratios to the plain step of the same model, between CUDA events, with the peak of a
step's memory.

The study trains one network from scratch with every arm, all arms of a seed first, and as many seeds as the time is
enough for: last-epoch accuracy in percent. Images are held on the device; pad-by-an-eighth crop and flip happen there.
The blind overflow window is KeepCutout's control and equals Cutout in distribution.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from step_cost import measure
from timm.data import create_dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, PILToTensor, Resize

import keepaug
from keepaug.augment import BatchAugment
from keepaug.console.errors import explain_errors
from keepaug.machine import describe_machine

# Network, pixels, batch.
PRICED = [
    ('cifar_resnet18', 32, 512),
    ('resnet50', 224, 128),
    ('vit_small_patch16_224', 224, 128),
    ('convnext_tiny', 224, 128),
]
TINY_PRICED = [('test_resnet', 32, 4), ('test_vit', 160, 2)]
# Arms of the study: name in the registry and hyper-parameters.
ARMS: dict[str, tuple[str, dict] | None] = {
    'none': None,
    'Cutout': ('cutout', {}),
    'blind overflow window': ('keep-cut', dict(tau=None, windows='overflow')),
    'keep-cut recycled': ('keep-cut', dict(saliency='recycled', windows='overflow')),
    'keep-cut low': ('keep-cut', dict(saliency='low', windows='overflow')),
    'keep-cut full': ('keep-cut', dict(saliency='full', windows='overflow')),
}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SIZE, PAD, CLASSES = 32, 4, 10
# Share of the time that prices may take.
PRICES = 0.45


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--data-dir', help='CIFAR-10 as an image folder with train and val; unset: no study')
    parser.add_argument('--minutes', type=float, default=7.0, help='time for all of it')
    parser.add_argument('--epochs', type=int, default=15)
    parser.add_argument('--tiny', action='store_true', help='small networks and random images, to see that it works')
    parser.add_argument('--output', type=Path, help='JSON file of the results')
    args = parser.parse_args()
    start, seconds = time.monotonic(), 60 * args.minutes
    machine = describe_machine(args.device)
    print(machine, flush=True)

    prices = price_all(args, deadline=start + PRICES * seconds)
    accuracy = {}
    if args.tiny or args.data_dir:
        accuracy = study(args, deadline=start + seconds)
    else:
        print('No study: give CIFAR-10 with --data-dir.')
    if args.output:
        record = dict(
            machine=machine,
            date=time.strftime('%Y-%m-%d'),
            tiny=args.tiny,
            epochs=args.epochs,
            prices=prices,
            accuracy=accuracy,
        )
        args.output.write_text(json.dumps(record, indent=1) + '\n')


def price_all(args, deadline: float) -> dict[str, dict]:
    """Ratios of every saliency, by network; a network for which no time is left is said to be left out."""
    prices = {}
    for name, size, batch in TINY_PRICED if args.tiny else PRICED:
        if time.monotonic() > deadline:
            print(f'{name}: not priced, the time is over.', flush=True)
            continue
        settings = argparse.Namespace(
            model=name,
            model_kwargs={},
            img_size=size,
            batch_size=batch,
            pairs=2 if args.tiny else 30,
            warmup=1 if args.tiny else 5,
            device=args.device,
            amp=True,
            channels_last=True,
            low_scale=0.5,
            only=None,
            memory=True,
        )
        rows = measure(settings)
        print(f'{name}, {size} px, batch {batch}, bfloat16, channels last', flush=True)
        for kind, row in rows.items():
            memory = f'  memory {row["memory"]:.3f}' if 'memory' in row else ''
            print(
                f'  {kind:10s} {row["median"]:.3f}  (95% interval {row["median_low"]:.3f} to {row["median_high"]:.3f}, '
                f'n = {row["n"]}){memory}'
            )
        prices[name] = rows
    return prices


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    target: Tensor,
    augment: BatchAugment | None,
    where: Tensor,
) -> None:
    """One update in bfloat16."""
    with torch.autocast(x.device.type, torch.bfloat16):
        if augment is not None and augment.recycled is not None:
            x, target = augment(x, target, where=where)
            x = augment.recycle(x)
        elif augment is not None:
            x, target = augment(x, target)
        loss = F.cross_entropy(model(x), target)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def study(args, deadline: float) -> dict[str, list[float]]:
    """Accuracies of every arm, a seed after the other, until the next run would not end in time."""
    train, val = (
        (random_images(256) for _ in range(2))
        if args.tiny
        else (load_images(args.data_dir, split) for split in ('train', 'val'))
    )
    train, val = (tuple(part.to(args.device) for part in split) for split in (train, val))
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    spent: dict[str, float] = {}
    seed = 0
    while not args.tiny or seed < 1:
        for arm in ARMS:
            left = deadline - time.monotonic()
            if left < 1.1 * spent.get(arm, max(spent.values(), default=0.0)):
                print_study(args, accuracy)
                return accuracy
            begun = time.monotonic()
            accuracy[arm].append(run_arm(args, ARMS[arm], seed, train, val))
            spent[arm] = time.monotonic() - begun
            print(f'seed {seed}, {arm}: {accuracy[arm][-1]:.2f} %, {spent[arm]:.0f} s', flush=True)
        seed += 1
    print_study(args, accuracy)
    return accuracy


def print_study(args, accuracy: dict[str, list[float]]) -> None:
    """Means by arm, and differences to the blind control, paired by seed."""
    control = accuracy['blind overflow window']
    print(f'CIFAR-10, {args.epochs} epochs, accuracy of the last one in percent' + (' (random images)' * args.tiny))
    for arm, values in accuracy.items():
        if not values:
            print(f'  {arm}: not run, the time is over')
            continue
        gains = [value - blind for value, blind in zip(values, control)]
        spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
        gain = f', {statistics.mean(gains):+.2f} on the blind window' if gains else ''
        print(f'  {arm:22s} {statistics.mean(values):.2f}{spread}, n = {len(values)}{gain}')


def load_images(folder: str, split: str) -> tuple[Tensor, Tensor]:
    """All images of a split as uint8 (N, 3, 32, 32), and their labels."""
    dataset = create_dataset('', folder, split=split, is_training=split == 'train')
    dataset.transform = Compose([Resize((SIZE, SIZE)), PILToTensor()])
    batches = list(DataLoader(dataset, 1000, num_workers=8))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def random_images(count: int) -> tuple[Tensor, Tensor]:
    return torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8), torch.randint(CLASSES, (count,))


def normalise(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def crop_and_flip(images: Tensor) -> tuple[Tensor, Tensor]:
    """Random crops of padded images, half of them flipped, and where each lies (B, 8) as `Places` has it."""
    batch, device = len(images), images.device
    top, left = torch.randint(2 * PAD + 1, (2, batch), device=device)
    flipped = torch.rand(batch, device=device) < 0.5
    line = torch.arange(SIZE, device=device)
    rows, cols = top[:, None] + line, left[:, None] + torch.where(flipped[:, None], line.flip(0), line)
    padded = F.pad(images, (PAD,) * 4)
    crops = padded[torch.arange(batch, device=device)[:, None, None], :, rows[:, :, None], cols[:, None]]
    size = torch.full_like(top, SIZE)
    place = torch.stack(
        [size, size, left - PAD, top - PAD, left - PAD + SIZE, top - PAD + SIZE, flipped.long(), 0 * top], 1
    )
    return crops.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last), place


def run_arm(
    args,
    arm: tuple[str, dict] | None,
    seed: int,
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
) -> float:
    """Accuracy in percent after the last epoch of one training."""
    torch.manual_seed(seed)
    device = train[0].device
    batch, epochs = (32, 1) if args.tiny else (512, args.epochs)
    name = 'test_resnet' if args.tiny else 'cifar_resnet18'
    model = timm.create_model(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(train[0]) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps + 1, pct_start=0.2)
    augment = None
    if arm is not None:
        settings = dict(arm[1])
        if settings.get('saliency') == 'recycled':
            settings['maps'] = keepaug.SaliencyMaps(len(train[0]), device=device)
        needs_model = settings.get('tau', 0) is not None and 'maps' not in settings
        augment = keepaug.create_augment(arm[0], model=model if needs_model else None, **settings)
    for _ in range(epochs):
        order = torch.randperm(len(train[0]), device=device)
        for index in order[: len(order) // batch * batch].split(batch):
            crops, place = crop_and_flip(normalise(train[0][index]))
            train_step(model, optimizer, crops, train[1][index], augment, torch.cat([index[:, None], place], 1))
            schedule.step()
    model.eval()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        hits = [
            (model(normalise(images)).argmax(1) == labels).sum()
            for images, labels in zip(val[0].split(1000), val[1].split(1000))
        ]
    return 100 * (torch.stack(hits).sum() / len(val[0])).item()


if __name__ == '__main__':
    explain_errors(main)
