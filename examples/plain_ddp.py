"""Keep-cut in a plain PyTorch loop on several processes.

torchrun --nproc-per-node 2 examples/plain_ddp.py
"""

import argparse
import os

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.data import create_transform
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import keepaug
from keepaug.datasets import ClutteredDigits

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.parse_args()
if 'LOCAL_RANK' not in os.environ:
    parser.error('this is one of several processes: start it with torchrun, as --help shows.')
local_rank = int(os.environ['LOCAL_RANK'])
device = torch.device('cuda', local_rank) if torch.cuda.is_available() else torch.device('cpu')
dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
torch.manual_seed(0)  # the same weights everywhere
dataset = ClutteredDigits('train', num_samples=96, transform=create_transform(40, is_training=True, no_aug=True))
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
bare = timm.create_model('test_resnet', num_classes=10).to(device).train()
model = DistributedDataParallel(bare, device_ids=[local_rank] if device.type == 'cuda' else None)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
# The bare model: a pass through the wrapper would make DDP expect gradients that never come.
cut = keepaug.create_augment('keep-cut', model=bare, num_classes=10, size=12)
torch.manual_seed(1 + dist.get_rank())  # from here on every process draws cuts of its own
right = []
for epoch in range(12):
    sampler.set_epoch(epoch)
    hits = torch.zeros((), device=device)
    for x, target in loader:
        x, target = cut(x.to(device), target.to(device))
        logits = model(x)
        F.cross_entropy(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
        hits += (logits.argmax(1) == target).sum()
    dist.all_reduce(hits)
    right.append(hits.item() / len(dataset))
    if dist.get_rank() == 0:
        print(f'epoch {epoch}: {right[-1]:.0%} right')
if dist.get_rank() == 0:
    print(f'Right in the first epoch {right[0]:.0%}, in the last one {right[-1]:.0%}')
dist.destroy_process_group()
