"""Cost of a training step with keep-cut, relative to the plain step of the same model.

    python benchmarks/step_cost.py                                   # cifar_resnet18 at 32 px, every saliency
    python benchmarks/step_cost.py --model resnet50 --img-size 224 -b 32 --device cuda --amp

Plain and augmented steps alternate in one process (plain, A, plain, B, plain, ...), each on a batch of its own, and
every augmented step is divided by the plain step before it, so that drift of the machine cancels. Printed are the
median ratio, its 95% interval and the quartiles over the pairs; `--output` adds the row to a JSON file together with
processor, versions and n. The plain step is forward, cross entropy, backward and SGD; the row `regions` is the scoring
and drawing alone, as a share of the plain step. On a CPU it is processor time that counts, which other processes on the
machine disturb less than the clock. Memory is the peak of what a step allocates, in units of the plain step's.
"""

import argparse
import copy
import functools
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from records import add_record
from torch.profiler import ProfilerActivity, profile

import keepaug
from keepaug.augment.base import default_window
from keepaug.augment.recycled import SaliencyMaps
from keepaug.augment.saliency import PASSES
from keepaug.functional import region_scores, sample_regions
from keepaug.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='cifar_resnet18')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=timm.utils.ParseKwargs, metavar='KEY=VALUE')
    parser.add_argument('--img-size', type=int, default=32, help='pixels')
    parser.add_argument('-b', '--batch-size', type=int, default=128)
    parser.add_argument('--pairs', type=int, default=30, help='pairs of steps per saliency')
    parser.add_argument('--warmup', type=int, default=3, help='pairs before those that count')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--amp', action='store_true', help='bfloat16 autocast')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--low-scale', type=float, default=0.5, help='edge of the reduced image, as a share')
    parser.add_argument('--only', nargs='+', metavar='ROW', help='rows to measure; unset: all')
    parser.add_argument('--memory', action='store_true', help="peak memory too, in units of the plain step's")
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--output', type=Path, help='JSON file the rows are added to')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    rows, machine = measure(args), describe_machine(args.device)
    print(f'{args.model}, {args.img_size} px, batch {args.batch_size}, {machine}')
    for name, row in rows.items():
        memory = f', memory {row["memory"]:.3f}' if 'memory' in row else ''
        print(
            f'  {name:9s} {row["median"]:.3f}  (quartiles {row["low"]:.3f} to {row["high"]:.3f}, '
            f'95% interval of the median {row["median_low"]:.3f} to {row["median_high"]:.3f}, '
            f'n = {row["n"]}){memory}'
        )
    if args.output:
        record = dict(
            model=args.model,
            model_kwargs=args.model_kwargs,
            img_size=args.img_size,
            batch_size=args.batch_size,
            amp=args.amp,
            channels_last=args.channels_last,
            low_scale=args.low_scale,
            machine=machine,
            date=time.strftime('%Y-%m-%d'),
            rows=rows,
        )
        add_record(args.output, record)


def measure(args) -> dict[str, dict[str, float]]:
    """Median and quartiles of the ratio to the plain step, by saliency."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = timm.create_model(args.model, num_classes=10, **args.model_kwargs).to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    size = (args.img_size, args.img_size)
    x = torch.randn(args.batch_size, 3, *size, device=device).contiguous(memory_format=layout)
    target = torch.randint(10, (args.batch_size,), device=device)
    # The early passes need a head, and it trains along: a price that the plain step does not have.
    early = keepaug.EarlyExit(copy.deepcopy(model))
    early_optimizer = torch.optim.SGD(early.parameters(), lr=1e-3, momentum=0.9)
    edge = default_window(*size)
    saliency = torch.rand(args.batch_size, 1, *size, device=device)

    # As in the trainer: every image has a map already, and the step writes it anew.
    maps = SaliencyMaps(args.batch_size, device=device)
    where = torch.tensor([[i, *size, 0, 0, *size, 0, 0] for i in range(args.batch_size)], device=device)

    def recycle(x, target):
        return cuts['recycled'].recycle(cuts['recycled'](x, target, where=where)[0]), target

    def step(augment=None, model=model, optimizer=optimizer):
        with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
            images = augment(x, target)[0] if augment is not None else x
            output = model(images)
            logits, *early_logits = output if isinstance(output, tuple) else (output,)
            loss = torch.nn.functional.cross_entropy(logits, target)
            for more in early_logits:
                loss = loss + model.weight * torch.nn.functional.cross_entropy(more, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    variants, cuts = {}, {'recycled': keepaug.create_augment('keep-cut', saliency='recycled', maps=maps)}
    variants['recycled'] = functools.partial(step, recycle)
    for kind, way in PASSES.items():
        parts = dict(model=early, optimizer=early_optimizer) if way.early else dict(model=model, optimizer=optimizer)
        cut = keepaug.create_augment('keep-cut', model=parts['model'], saliency=kind, low_scale=args.low_scale)
        variants[kind] = functools.partial(step, cut, **parts)
    variants['regions'] = lambda: sample_regions(region_scores(saliency, (edge, edge)), (edge, edge), 0.6)
    variants = {name: variant for name, variant in variants.items() if name in (args.only or variants)}
    ratios = {name: [] for name in variants}
    for pair in range(args.warmup + args.pairs):
        for name, variant in variants.items():
            plain = timed(step, device)
            ratio = timed(variant, device) / plain
            if pair >= args.warmup:
                ratios[name].append(ratio)
    rows = {name: summary(values) for name, values in ratios.items()}
    if args.memory:
        peak_memory(step, device)  # the first allocations of all, of the profiler's on a CPU
        plain = peak_memory(step, device)
        for name in rows.keys() - {'regions'}:
            rows[name]['memory'] = round(peak_memory(variants[name], device) / plain, 4)
    return rows


def timed(run, device: torch.device) -> float:
    """Seconds of one call: between two events on a GPU, idle before and after; of the processor on a CPU."""
    if device.type != 'cuda':
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def peak_memory(run: Callable[[], None], device: torch.device) -> int:
    """Most bytes that one call holds at once beyond what was there before."""
    if device.type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    # Positive for what is allocated, negative for what is freed.
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == '[memory]']
    held = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    # The order statistics that enclose the median with 95%, by the normal approximation of the binomial.
    half = 0.98 * math.sqrt(len(values))
    first, last = math.floor((len(values) - 1) / 2 - half), math.ceil((len(values) - 1) / 2 + half)
    ordered = sorted(values)
    return dict(
        median=round(median, 4),
        low=round(low, 4),
        high=round(high, 4),
        median_low=round(ordered[max(0, first)], 4),
        median_high=round(ordered[min(last, len(values) - 1)], 4),
        n=len(values),
    )


if __name__ == '__main__':
    main()
