"""Keep-cut in a metric-learning loop: triplets of identities, random erasing that spares what tells them apart.

As in KeepAugment, section 4.4 (re-identification): the backbone learns embeddings by a triplet loss and identities by a
classifier beside it, whose logits give the saliency. Regions of low saliency are erased with random pixels. Nothing of
keepaug's training script is used; the loop is yours. Runs on toy images on a CPU in seconds:

    python examples/metric_learning.py
"""

import argparse

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import keepaug

IDENTITIES = 6
IMAGES_EACH = 4  # in a batch, as triplet losses want it
SIZE = 48


class EmbeddingModel(nn.Module):
    """A timm backbone that embeds images, with a classifier of identities on the embedding.

    `forward` gives logits, which is what keepaug explains; training and retrieval use `embed`.
    """

    def __init__(self, name: str, identities: int):
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=0)
        self.classifier = nn.Linear(self.backbone.num_features, identities)

    def embed(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.embed(x))


def toy_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images of all identities: noise, and somewhere in it a patch of texture that is the identity's own."""
    textures = torch.randn(IDENTITIES, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    target = torch.arange(IDENTITIES).repeat_interleave(IMAGES_EACH)
    x = 0.5 * torch.randn(len(target), 3, SIZE, SIZE, generator=generator)
    for image, identity in zip(x, target):
        top, left = torch.randint(SIZE - 20, (2,), generator=generator)
        image[:, top : top + 20, left : left + 20] = textures[identity]
    return x, target


def hardest_triplets(embedding: Tensor, target: Tensor, margin: float = 0.3) -> Tensor:
    """Triplet loss of each image with its farthest image of the same identity and the nearest of another."""
    distance = torch.cdist(F.normalize(embedding), F.normalize(embedding))
    same = target[:, None] == target
    farthest = distance.masked_fill(~same, 0.0).amax(1)
    nearest = distance.masked_fill(same, float('inf')).amin(1)
    return F.relu(farthest - nearest + margin).mean()


def retrieval_accuracy(model: EmbeddingModel, generator: torch.Generator) -> float:
    """Share of new images whose nearest neighbour, by cosine, shows the same identity."""
    x, target = toy_batch(generator)
    with torch.no_grad():
        embedding = F.normalize(model.eval().embed(x))
    nearest = (embedding @ embedding.T).fill_diagonal_(-1.0).argmax(1)
    return (target[nearest] == target).float().mean().item()


def train(steps: int) -> tuple[float, float]:
    """Retrieval accuracy before and after training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = EmbeddingModel('test_resnet', IDENTITIES)
    erase = keepaug.create_augment('keep-cut', model=model, mode='erase', fill='pixel', prob=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    before = retrieval_accuracy(model, generator)
    for step in range(steps):
        x, target = erase(*toy_batch(generator))
        embedding = model.train().embed(x)
        loss = hardest_triplets(embedding, target) + F.cross_entropy(model.classifier(embedding), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f'step {step:3d}  loss {loss.item():.3f}')
    return before, retrieval_accuracy(model, generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=30, metavar='N', help='training steps')
    before, after = train(parser.parse_args().steps)
    print(f'nearest neighbour of the same identity: {before:.0%} before, {after:.0%} after')


if __name__ == '__main__':
    main()
