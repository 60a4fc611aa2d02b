"""How well the cheaper saliency passes choose the regions that the full pass would choose.

    python benchmarks/saliency_agreement.py --data-dir /data/cifar10 --model cifar_resnet18 --checkpoint last.pth.tar

For every pass and size of the reduced image, over the windows of an image: the rank correlation of their scores with
those of the full pass, and the share of the windows it admits to cutting (scores below the tau-quantile) that the full
pass admits too; windows drawn blindly would share tau. Means over images with their 95% interval. The checkpoint comes
from a run with an early head; without one, the early passes are left out.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import load_checkpoint
from timm.utils import ParseKwargs

from keepaug import EarlyExit
from keepaug.augment.base import default_window
from keepaug.augment.saliency import PASSES, SaliencySource
from keepaug.files.checkpoints import check_checkpoint
from keepaug.functional import region_scores
from keepaug.machine import describe_machine
from keepaug.measuring.intervals import half_width
from keepaug.training.early_exit_task import load_early_exit

SCALES = (0.5, 0.375, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-dir', required=True, help='image folder; its val split is used')
    parser.add_argument('--model', default='cifar_resnet18')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs)
    parser.add_argument('--num-classes', type=int, default=10)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--samples', type=int, default=2000)
    parser.add_argument('--size', type=int, help='edge of the window in pixels; unset: 16 below 96 px, else 40')
    parser.add_argument('--tau', type=float, default=0.6)
    parser.add_argument('-b', '--batch-size', type=int, default=100)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--output', type=Path, help='JSON file of the results')
    args = parser.parse_args()

    device = torch.device(args.device)
    model = load(args).to(device).eval()
    backbone = model.backbone if isinstance(model, EarlyExit) else model
    config = resolve_data_config({}, model=backbone)
    loader = create_loader(
        create_dataset('', args.data_dir, split='val'),
        input_size=config['input_size'],
        batch_size=args.batch_size,
        mean=config['mean'],
        std=config['std'],
        crop_pct=1.0,
        num_workers=0,
        device=device,
    )
    edge = args.size or default_window(*config['input_size'][1:])
    rows = measure(model, loader, (edge, edge), args.tau, args.samples)
    record = dict(model=args.model, window=edge, tau=args.tau, machine=describe_machine(args.device), rows=rows)
    for name, row in rows.items():
        parts = [f'{key} {value["mean"]:.3f} +- {value["half"]:.3f}' for key, value in row.items()]
        print(f'{name:15s} ', *parts, f'n = {row["shared choice"]["n"]}', sep='  ')
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + '\n')


def load(args) -> torch.nn.Module:
    """The model with its plain weights, and the early head of its checkpoint if it has one."""
    checkpoint = check_checkpoint(args.checkpoint, '--checkpoint')
    model = timm.create_model(args.model, num_classes=args.num_classes, **args.model_kwargs)
    load_checkpoint(model, args.checkpoint, use_ema=False)
    if 'early_exit' not in checkpoint.get('task_state', {}):
        return model
    return load_early_exit(model, checkpoint, f'--checkpoint {args.checkpoint}')


def measure(model, loader, size: tuple[int, int], tau: float, samples: int) -> dict[str, dict]:
    """Rank correlation and shared choice by pass, each as mean, half width of its 95% interval, and n."""
    sources = {}
    for kind, way in PASSES.items():
        if kind == 'full' or way.early and not isinstance(model, EarlyExit):
            continue
        for scale in SCALES if way.low else (None,):
            sources[f'{kind} {scale}' if scale else kind] = SaliencySource(model, kind, scale or 1.0)
    full = SaliencySource(model, 'full')
    values = {name: {'rank correlation': [], 'shared choice': []} for name in sources}
    seen = 0
    for x, target in loader:
        x, target = x[: samples - seen], target[: samples - seen]
        seen += len(x)
        expected = region_scores(full(x, target), size).flatten(1)
        for name, source in sources.items():
            scores = region_scores(source(x, target), size).flatten(1)
            values[name]['rank correlation'].append(rank_correlation(scores, expected))
            values[name]['shared choice'].append(shared_choice(scores, expected, tau))
        if seen >= samples:
            break
    return {name: {key: interval(torch.cat(parts)) for key, parts in row.items()} for name, row in values.items()}


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Spearman's correlation (B,) of scores (B, N)."""
    ranks = torch.stack([scores.argsort(1).argsort(1).double() for scores in (first, second)])
    ranks = ranks - ranks.mean(2, keepdim=True)
    return (ranks[0] * ranks[1]).sum(1) / (ranks[0].norm(dim=1) * ranks[1].norm(dim=1)).clamp(min=1e-12)


def shared_choice(scores: torch.Tensor, expected: torch.Tensor, tau: float) -> torch.Tensor:
    """Share (B,) of the windows below the quantile of `scores` that are below that of `expected`."""
    rank = int(tau * (scores.shape[1] - 1)) + 1
    admitted, wanted = (values < values.kthvalue(rank, 1, keepdim=True).values for values in (scores, expected))
    return (admitted & wanted).sum(1) / admitted.sum(1).clamp(min=1)


def interval(values: torch.Tensor) -> dict[str, float]:
    """Mean, half of its 95% interval and number of values (N,)."""
    return dict(mean=round(values.double().mean().item(), 4), half=round(half_width(values), 4), n=len(values))


if __name__ == '__main__':
    main()
