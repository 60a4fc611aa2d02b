"""Keep-cut in a Lightning module: batches are cut once they are on the device, where the model is.

    python examples/lightning_module.py

`transfer_batch_to_device` is followed by `on_after_batch_transfer`, in every process and with the weights of this step.
A transform or a data module's collate function would be too early: they run in loader workers, without the model.
"""

import argparse

import lightning
import timm
import torch
import torch.nn.functional as F
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader

import keepaug
from keepaug.datasets import ClutteredDigits


class Classifier(lightning.LightningModule):
    """A timm model that trains on cut images and is validated on whole ones."""

    def __init__(self, name: str, num_classes: int):
        super().__init__()
        self.model = timm.create_model(name, num_classes=num_classes)
        # The bare model. Lightning wraps this module for DDP, not the model in it, so that this holds there too.
        self.cut = keepaug.create_augment('keep-cut', model=self.model, num_classes=num_classes, size=12)
        self.right = []  # share of each epoch

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        return self.cut(*batch) if self.trainer.training else batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        logits = self.model(x)
        self.log('right', (logits.argmax(1) == target).float().mean(), on_step=False, on_epoch=True)
        return F.cross_entropy(logits, target)

    def on_train_epoch_end(self) -> None:
        self.right.append(self.trainer.callback_metrics['right'].item())
        print(f'epoch {self.current_epoch}: {self.right[-1]:.0%} right')

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lightning.seed_everything(0)
    dataset = ClutteredDigits('train', num_samples=96, transform=create_transform(40, is_training=True, no_aug=True))
    classifier = Classifier('test_resnet', num_classes=10)
    trainer = lightning.Trainer(max_epochs=12, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(classifier, DataLoader(dataset, batch_size=16, shuffle=True))
    print(f'Right in the first epoch {classifier.right[0]:.0%}, in the last one {classifier.right[-1]:.0%}')
