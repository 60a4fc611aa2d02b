"""Stock's label mixing in the loader."""

from collections.abc import Callable

import torch
from timm.data import FastCollateMixup, Mixup, NaFlexMixup


class SharedSwitchCollate(FastCollateMixup):
    """timm's mixing collate function whose on/off switch reaches loader workers that are already running.

    Stock keeps the switch as a plain attribute, of which every persistent worker holds its own copy, so that
    `--mixup-off-epoch` changes nothing there. Here it lives in shared memory.
    """

    def __init__(self, **mixup_args):
        self._enabled = torch.ones(1, dtype=torch.bool).share_memory_()
        super().__init__(**mixup_args)

    @property
    def mixup_enabled(self) -> bool:
        return bool(self._enabled)

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self._enabled.fill_(enabled)


def mixing_is_on(args) -> bool:
    """Whether stock's mixup or cutmix mixes labels in this run."""
    return args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None


def build_mixing(args) -> tuple[Mixup | None, Callable | None]:
    """Stock's mixup and cutmix: on device without the prefetcher, in the loader with it and with `--naflex-loader`.

    Returns:
        What mixes on the device, and what mixes in the loader: its collate function, or NaFlex's mixer.
    """
    if not mixing_is_on(args):
        return None, None
    mixup_args = dict(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        label_smoothing=args.smoothing,
        num_classes=args.num_classes,
        multi_label=args.task == 'multilabel',
    )
    if args.naflex_loader:  # which pairs images of like shape, whatever the mode, and ends by the epoch it is told
        return None, NaFlexMixup(**mixup_args, mixup_off_epoch=args.mixup_off_epoch)
    mixup_args.update(cutmix_minmax=args.cutmix_minmax, mode=args.mixup_mode)
    if args.prefetcher:
        return None, SharedSwitchCollate(**mixup_args)
    return Mixup(**mixup_args), None
