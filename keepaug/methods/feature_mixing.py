"""Mixing inside the network: `--feature-cutmix` (CutMix, Figure 3) and `--manifold-mixup` (Verma et al., 2019)."""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from keepaug.augment import FeatureCutMix, ManifoldMixup
from keepaug.methods.method import Flag, Method, Need, Refusal, is_typed_zero
from keepaug.methods.stock_mixing import MIXING_OFF, partner_settings
from keepaug.models.early_exit import backbone_of

ALL = 'all'
STAGES = (
    'at one of these stages, drawn for each batch: 0 is the image, n the n-th stage of the backbone, as in 0,1,2; '
    'without a value: all but the last'
)


def stage_numbers(text: str) -> str:
    """The value of the flags: different whole numbers with commas between, or 'all'."""
    numbers = text.split(',')
    if text != ALL and not (re.fullmatch(r'\d+(,\d+)*', text) and len(set(numbers)) == len(numbers)):
        raise ValueError('stages are different numbers such as 0,1,2')
    return text


def read_stages(text: str | int) -> tuple[int, ...] | None:
    """The stages that a flag names; None for all."""
    return None if text == ALL else tuple(int(number) for number in str(text).split(','))


class FeatureMixingMethod(Method):
    """Mixes the batch at a stage drawn for each batch."""

    needs = Method.needs | Need.OPEN_MODEL
    only_in_training = 'mixes features in training mode only'
    region = 'replaced'
    switch: Flag

    def mixes_labels(self, args: argparse.Namespace) -> bool:
        return True

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return MIXING_OFF

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        flag = self.switch.option
        for alpha in self.uses_alpha_of:
            yield (
                is_typed_zero(args, alpha),
                f'--{alpha} 0 switches mixing off, and {self.spelled(args)} mixes: drop one of the two.',
            )
        yield (
            bool(args.kd_model_name),
            (
                f'{flag} mixes inside the model, where the teacher of --kd-model-name {args.kd_model_name} does not '
                'see it: drop one of the two.'
            ),
        )
        yield (
            bool(args.risk_samples),
            (
                f'{flag} mixes in training mode only, and --risk-samples {args.risk_samples} measures in eval mode: '
                'drop one of the two.'
            ),
        )

    def settings_of(self, args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
        """Hyper-parameters that both have."""
        return dict(
            model=backbone_of(model),
            num_classes=args.num_classes,
            stages=read_stages(vars(args)[self.switch.dest]),
            **partner_settings(args),
        )


class FeatureCutMixMethod(FeatureMixingMethod):
    """CutMix of feature maps."""

    name = 'feature-cutmix'
    title = 'mixing inside the network'
    switch = Flag(
        '--feature-cutmix',
        parameter='stages',
        type=stage_numbers,
        alone=ALL,
        metavar='STAGES',
        values='different stages, such as 0,1,2',
        help=f'cutmix {STAGES}',
    )
    augments = ('feature-cutmix',)
    uses_alpha_of = ('cutmix',)
    example = '--feature-cutmix'

    def build(self, args: argparse.Namespace, model: nn.Module) -> FeatureCutMix:
        return FeatureCutMix(alpha=args.taken_over.cutmix or 1.0, **self.settings_of(args, model))


class ManifoldMixupMethod(FeatureMixingMethod):
    """Mixup of feature maps."""

    name = 'manifold-mixup'
    title = FeatureCutMixMethod.title
    switch = Flag(
        '--manifold-mixup',
        parameter='stages',
        type=stage_numbers,
        alone=ALL,
        metavar='STAGES',
        values='different stages, such as 0,1,2',
        help=f'mixup {STAGES}',
    )
    augments = ('manifold-mixup',)
    uses_alpha_of = ('mixup',)
    example = '--manifold-mixup'

    def build(self, args: argparse.Namespace, model: nn.Module) -> ManifoldMixup:
        return ManifoldMixup(alpha=args.taken_over.mixup or 1.0, **self.settings_of(args, model))
