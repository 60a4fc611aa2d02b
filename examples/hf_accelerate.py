"""Keep-cut in a loop of Hugging Face accelerate.

accelerate launch examples/hf_accelerate.py
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.data import create_transform
from torch.utils.data import DataLoader

import keepaug
from keepaug.datasets import ClutteredDigits

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
accelerator = Accelerator()
set_seed(0)
dataset = ClutteredDigits('train', num_samples=96, transform=create_transform(40, is_training=True, no_aug=True))
loader = DataLoader(dataset, batch_size=16, shuffle=True)
model = timm.create_model('test_resnet', num_classes=10).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
# The bare model, after prepare: a pass through the wrapper would make DDP expect gradients that never come.
cut = keepaug.create_augment('keep-cut', model=accelerator.unwrap_model(model), num_classes=10, size=12)
set_seed(0, device_specific=True)  # from here on every process draws cuts of its own
right = []
for epoch in range(12):
    hits = []
    for x, target in loader:  # on the device already
        with accelerator.accumulate(model):
            x, target = cut(x, target)
            logits = model(x)
            accelerator.backward(F.cross_entropy(logits, target))
            optimizer.step()
            optimizer.zero_grad()
        hits.append(accelerator.gather_for_metrics(logits.argmax(1) == target))
    right.append(torch.cat(hits).float().mean().item())
    accelerator.print(f'epoch {epoch}: {right[-1]:.0%} right')
accelerator.print(f'Right in the first epoch {right[0]:.0%}, in the last one {right[-1]:.0%}')
