"""Keep-cut without a pass for saliency, in a loop of one's own: what each step's backward pass tells guides later cuts.

python examples/recycled_saliency.py
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from timm.data import create_transform
from torch.utils.data import DataLoader

import keepaug
from keepaug.datasets import ClutteredDigits

argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
torch.manual_seed(0)
# Beside image and label the data set gives where in its image the crop lies.
transform = create_transform(40, is_training=True, scale=(0.8, 1.0), hflip=0.0, color_jitter=0.0)
dataset = keepaug.PlacedImages(ClutteredDigits('train', num_samples=96), transform)
model = timm.create_model('test_resnet', num_classes=10).train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
maps = keepaug.SaliencyMaps(len(dataset))
cut = keepaug.create_augment('keep-cut', size=12, saliency='recycled', maps=maps)
right = []
for epoch in range(12):
    hits = 0
    for x, target, where in DataLoader(dataset, batch_size=16, shuffle=True):
        x, target = cut(x, target, where=where)
        logits = model(cut.recycle(x))  # asks for the gradient of the batch, which goes into the maps
        F.cross_entropy(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
        hits += (logits.argmax(1) == target).sum().item()
    right.append(hits / len(dataset))
    print(f'epoch {epoch}: {right[-1]:.0%} right, {maps.written.float().mean():.0%} of the images have a map')
print(f'Right in the first epoch {right[0]:.0%}, in the last one {right[-1]:.0%}')
