"""Keep-cut in a script of the style of torchvision's reference scripts, which mix labels in a collate function.

    python examples/torchvision_reference.py

A collate function cannot see the model: it runs in a loader worker, another process, which has no access to the
device and at best a copy of the weights from when the workers were started. What asks the model must wait until the
batch is on the device: keep-cut stands in the step, in the place that RandomErasing has in the transforms. MixUp and
CutMix move from the collate function to the line behind it, so that saliency is asked of whole images; they work on
batches on any device.
"""

import argparse

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import keepaug
from keepaug.datasets import ClutteredDigits

device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def train_one_epoch(model, criterion, optimizer, data_loader, cut, mix) -> float:
    """Share of the images, cut and before mixing, that the model of each step had right."""
    model.train()
    hits = 0
    for image, target in data_loader:
        image, target = cut(image.to(device), target.to(device))
        mixed, mixed_target = mix(image, target)
        output = model(mixed)
        loss = criterion(output, mixed_target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        hits += (output.argmax(1) == mixed_target.argmax(1)).sum().item()
    return hits / len(data_loader.dataset)


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    dataset = ClutteredDigits('train', num_samples=96, transform=transform)
    data_loader = DataLoader(dataset, batch_size=16, shuffle=True)  # without collate_fn
    model = timm.create_model('test_resnet', num_classes=10).to(device)
    model_without_ddp = model  # as the reference scripts name it: what saliency is asked of
    cut = keepaug.create_augment('keep-cut', model=model_without_ddp, num_classes=10, size=12)
    mix = v2.RandomChoice([v2.MixUp(num_classes=10, alpha=0.2), v2.CutMix(num_classes=10, alpha=1.0)], p=[0.8, 0.2])
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    right = []
    for epoch in range(14):
        right.append(train_one_epoch(model, criterion, optimizer, data_loader, cut, mix))
        print(f'epoch {epoch}: {right[-1]:.0%} right')
    print(f'Right in the first epoch {right[0]:.0%}, in the last one {right[-1]:.0%}')
