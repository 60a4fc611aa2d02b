"""torchvision's AutoAugment policies, values of one of stock's flags: `--aa tv-cifar10-m12`."""

import argparse
from collections.abc import Iterator
from typing import Any

from keepaug.data.policies import NAMES, create_policy, is_torchvision_policy
from keepaug.data.transform import TransformChanges
from keepaug.methods.method import Method, Need, Refusal, typed

# Stands in the loader until it is exchanged.
STAND_IN = 'original'


class TorchvisionPolicyMethod(Method):
    """Puts a policy of torchvision's in the place of timm's."""

    name = 'torchvision-policy'
    needs = Need.IMAGES
    on_batches = False
    example = f'--aa {NAMES[0]}-m12'

    def is_on(self, args: argparse.Namespace) -> bool:
        return is_torchvision_policy(typed(args, 'aa'))

    def spelled(self, args: argparse.Namespace) -> str:
        return f'--aa {typed(args, "aa")}'

    def takes_over(self, args: argparse.Namespace) -> dict[str, Any]:
        return {'aa': STAND_IN}

    def refuses(self, args: argparse.Namespace) -> Iterator[Refusal]:
        try:
            create_policy(typed(args, 'aa'))
        except ValueError as error:
            yield True, f'--aa {error}'

    def change_transform(self, changes: TransformChanges, args: argparse.Namespace) -> None:
        if not args.no_aug:  # else the loader does not look at the policy, and neither do we
            changes.policy = create_policy(typed(args, 'aa'))
