"""Cost of label mixing: time and memory of a training step, relative to the plain step of the same model.

    python benchmarks/label_mixing.py                                # cifar_resnet18 at 32 px, every mixer
    python benchmarks/label_mixing.py --model resnet50 --img-size 224 -b 64 --device cuda --teacher resnet152

Beside our mixers stands timm's own `Mixup(mode='elem')` with CutMix, which draws and pastes image by image. All run in
one process; plain and mixed steps alternate (plain, A, plain, B, ...), and each mixed step is divided by the plain step
before it, so that drift of the machine cancels. A step is mixing, forward, cross entropy, backward and SGD; the rows
that end in `alone` are the mixing without the model, as a share of the plain step. Memory is the peak of what a step
allocates beyond weights and batch, in units of the plain step's. Printed are the median ratio and the quartiles over
the pairs; `--output` adds the rows to a JSON file together with processor, versions and n.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from records import add_record
from step_cost import peak_memory, summary, timed
from timm.data import Mixup
from torch.nn.functional import cross_entropy

import keepaug
from keepaug.machine import describe_machine

CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='cifar_resnet18')
    parser.add_argument('--img-size', type=int, default=32, help='pixels')
    parser.add_argument('-b', '--batch-size', type=int, default=128)
    parser.add_argument('--teacher', default='cifar_resnet18', help='of attentive cutmix, without trained weights')
    parser.add_argument('--teacher-size', type=int, help='pixels; unset: as the images are')
    parser.add_argument('--pairs', type=int, default=30, help='pairs of steps per mixer')
    parser.add_argument('--warmup', type=int, default=3, help='pairs before those that count')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--output', type=Path, help='JSON file the rows are added to')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    rows, machine = measure(args), describe_machine(args.device)
    print(f'{args.model}, {args.img_size} px, batch {args.batch_size}, teacher {args.teacher}, {machine}')
    for name, row in rows.items():
        spread = f'(quartiles {row["low"]:.3f} to {row["high"]:.3f}, n = {row["n"]})'
        memory = f'  memory {row["memory"]:.3f}' if 'memory' in row else ''
        print(f'  {name:24s} {row["median"]:.3f}  {spread}{memory}')
    if args.output:
        record = dict(
            model=args.model,
            img_size=args.img_size,
            batch_size=args.batch_size,
            teacher=args.teacher,
            teacher_size=args.teacher_size,
            amp=args.amp,
            machine=machine,
            date=time.strftime('%Y-%m-%d'),
            rows=rows,
        )
        add_record(args.output, record)


def create_mixers(args, model: torch.nn.Module, device: torch.device) -> dict[str, Callable]:
    """What mixes a batch, by the name of its row."""
    teacher = timm.create_model(args.teacher, num_classes=0).to(device).eval().requires_grad_(False)
    size = args.teacher_size and (args.teacher_size,) * 2
    ours = {
        'mixup': dict(),
        'cutmix': dict(),
        'cutmix-variant': dict(variant='center-gaussian'),
        'attentive-cutmix': dict(teacher=teacher, teacher_size=size),
        'feature-cutmix': dict(model=model),
        'manifold-mixup': dict(model=model),
    }
    created = {
        name: keepaug.create_augment(name, num_classes=CLASSES, mixing='elem', **settings)
        for name, settings in ours.items()
    }
    stock = Mixup(cutmix_alpha=1.0, mixup_alpha=0.0, mode='elem', label_smoothing=0.0, num_classes=CLASSES)
    # Stock's works in place.
    return {'timm elem': lambda x, target: stock(x.clone(), target), **created}


def measure(args) -> dict[str, dict[str, float]]:
    """Median and quartiles of the ratio to the plain step, and that of memory, by mixer."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=CLASSES).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(args.batch_size, 3, args.img_size, args.img_size, device=device)
    target = torch.randint(CLASSES, (args.batch_size,), device=device)
    mixers = create_mixers(args, model, device)

    def step(mixer: Callable | None = None) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            images, labels = (x, target) if mixer is None else mixer(x, target)
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for each in mixers.values():
            if hasattr(each, 'inside'):
                each.inside.set_plan(None)  # the next step may be another's

    def alone(mixer: Callable) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            mixer(x, target)

    variants = {name: lambda mixer=mixer: step(mixer) for name, mixer in mixers.items()}
    variants |= {f'{name} alone': lambda mixer=mixer: alone(mixer) for name, mixer in mixers.items()}
    ratios = {name: [] for name in variants}
    for pair in range(args.warmup + args.pairs):
        for name, variant in variants.items():
            plain = timed(step, device)
            ratio = timed(variant, device) / plain
            if pair >= args.warmup:
                ratios[name].append(ratio)
    rows = {name: summary(values) for name, values in ratios.items()}
    peak_memory(step, device)  # the profiler's own first allocations
    plain = peak_memory(step, device)
    for name in mixers:
        rows[name]['memory'] = round(peak_memory(variants[name], device) / plain, 4)
    return rows


if __name__ == '__main__':
    main()
