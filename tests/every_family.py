"""Walks a small model of every architecture of timm through a training step with each saliency, and writes the result.

python -m tests.every_family --output docs/families.md
"""

import argparse
import resource
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import keepaug
from keepaug.augment import BatchAugment
from keepaug.augment.recycled import RECYCLED
from keepaug.augment.saliency import PASSES, PREFERENCE, low_size
from keepaug.models.resolution import ResizedTwin, at_resolution
from tests.functional.backbones import assert_untouched, everything

CLASSES = 5
BATCH = 2
COLUMNS = (*PASSES, RECYCLED, 'keep-paste')
WORKS = 'works'


class Family(NamedTuple):
    """A small model of an architecture module.

    Attributes:
        model: Its name in timm.
        size: Edge in pixels of the images it is trained on here.
        settings: What makes it smaller.
        refused: Why a reduced image is refused, where it is.
    """

    model: str
    size: int
    settings: dict[str, Any] = {}
    refused: str = ''


def cut(size: int | None = None, **settings) -> dict[str, Any]:
    """Settings of a transformer of two narrow blocks."""
    settings = dict(dict(embed_dim=48, depth=2, num_heads=3), **settings)
    return settings if size is None else dict(settings, img_size=size)


SWIN = dict(img_size=64, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 2))
NARROW = dict(embed_dim=64, depth=2, num_heads=2)

# By module, in alphabetical order. Sizes are those a family is built for where that is fixed, else as small as the
# model and its copy of half the size can be.
FAMILIES = {
    'alexnet': Family('alexnet', 128),
    'beit': Family('beit_base_patch16_224', 64, cut(64)),
    'byoanet': Family('halonet_h1', 256, refused='its attention works on blocks of 8 x 8 features, at reduction 32'),
    'byobnet': Family('test_byobnet', 64),
    'cait': Family('cait_xxs24_224', 64, cut(64)),
    'cifar_preact_resnet': Family('cifar_preact_resnet18', 32),
    'cifar_resnet': Family('cifar_resnet18', 32),
    'coat': Family('coat_tiny', 64, dict(img_size=64)),
    'convit': Family('convit_tiny', 64, cut(64)),
    'convmixer': Family('convmixer_768_32', 64),
    'convnext': Family('test_convnext', 64),
    'cpubone': Family('cpubone_nano', 64),
    'crossvit': Family('crossvit_tiny_240', 240),
    'csatv2': Family('csatv2', 256),
    'cspnet': Family('cs3darknet_focus_s', 64),
    'cspnext': Family('cspnext_tiny', 64),
    'davit': Family('davit_tiny', 96, dict(depths=(1,) * 4, embed_dims=(16, 32, 64, 128), num_heads=(1, 2, 4, 8))),
    'deepseek_vit': Family('deepseek_vit_412m', 112, NARROW),
    'deit': Family('deit_tiny_patch16_224', 64, cut(64)),
    'densenet': Family('densenet121', 64, dict(growth_rate=8, block_config=(2, 2, 2, 2))),
    'densenet264': Family('densenet264', 64, dict(growth_rate=8, block_config=(2, 2, 2, 2))),
    'dla': Family('dla46x_c', 96),
    'dpn': Family('dpn48b', 64),
    'edgenext': Family('edgenext_xx_small', 96),
    'efficientformer': Family('efficientformer_l1', 224, refused='timm builds its attention for 7 x 7 features alone'),
    'efficientformer_v2': Family('efficientformerv2_s0', 224),
    'efficientnet': Family('test_efficientnet', 64),
    'efficientvim': Family('efficientvim_m1', 128),
    'efficientvit_mit': Family('efficientvit_b0', 64),
    'efficientvit_msra': Family('efficientvit_m0', 224),
    'eva': Family('eva02_tiny_patch14_224', 56, cut(56)),
    'fasternet': Family('fasternet_t0', 64),
    'fastvit': Family('fastvit_t8', 64),
    'focalnet': Family('focalnet_tiny_srf', 96),
    'gcvit': Family('gcvit_xxtiny', 128, dict(img_size=128)),
    'gemma4_vit': Family('gemma4_vit_167m', 96, NARROW),
    'ghostnet': Family('ghostnet_050', 64),
    'hardcorenas': Family('hardcorenas_b', 64),
    'hgnet': Family('hgnetv2_b0', 64),
    'hiera': Family('hiera_tiny_224', 128, dict(img_size=128, embed_dim=24)),
    'hieradet_sam2': Family('hieradet_small', 128),
    'hrnet': Family('hrnet_w18_small', 96),
    'iformer': Family('iformer_t', 64),
    'inception_next': Family('inception_next_atto', 64),
    'inception_resnet_v2': Family('inception_resnet_v2', 160),
    'inception_v3': Family('inception_v3', 160),
    'inception_v4': Family('inception_v4', 160),
    'lcnetv2': Family('lcnetv2_small', 64),
    'levit': Family('levit_128s', 128, dict(img_size=128)),
    'lowformer': Family('lowformer_b0', 64),
    'mambaout': Family('test_mambaout', 64),
    'maxxvit': Family('test_coatnet', 160),
    'metaformer': Family('poolformerv2_s12', 64),
    'mlp_mixer': Family('gmlp_ti16_224', 64, dict(img_size=64)),
    'mobilenetv3': Family('mobilenetv3_small_050', 64),
    'mobilenetv5': Family('mobilenetv5_base', 64, dict(channel_multiplier=0.25)),
    'mobilevit': Family('mobilevit_xxs', 64),
    'mvitv2': Family('mvitv2_tiny', 128, dict(img_size=128)),
    'naflexvit': Family('naflexvit_base_patch16_parfac_gap', 96, cut()),
    'nasnet': Family('nasnetalarge', 64),
    'nest': Family('nest_tiny', 128, dict(img_size=128)),
    'nextvit': Family('nextvit_small', 64),
    'nfnet': Family('test_nfnet', 64),
    'pit': Family('pit_ti_224', 128, dict(img_size=128)),
    'pnasnet': Family('pnasnet5large', 64),
    'pvt_v2': Family('pvt_v2_b0', 64),
    'pyramidnet': Family('cifar_pyramidnet272_a200', 32, dict(depth=20, alpha=16)),
    'qwen3_vit': Family('qwen3_vit_88m', 96, NARROW),
    'rdnet': Family('rdnet_tiny', 64),
    'regnet': Family('regnetx_002', 64),
    'repghost': Family('repghostnet_050', 64),
    'repvit': Family('repvit_m1', 64),
    'res2net': Family('res2next50', 64),
    'resnest': Family('resnest14d', 64),
    'resnet': Family('test_resnet', 64),
    'resnetv2': Family('resnetv2_18', 64),
    'rexnet': Family('rexnet_100', 64),
    'selecsls': Family('selecsls42', 64),
    'senet': Family('legacy_seresnet18', 64),
    'sequencer': Family('sequencer2d_s', 112, dict(img_size=112)),
    'shake_shake': Family('cifar_shake_shake26_2x96d', 32, dict(blocks=2, width=16)),
    'shvit': Family('shvit_s1', 128),
    'sknet': Family('skresnet18', 64),
    'starnet': Family('starnet_s050', 64),
    'swiftformer': Family('swiftformer_xs', 64),
    'swin_transformer': Family('swin_tiny_patch4_window7_224', 64, SWIN),
    'swin_transformer_v2': Family('swinv2_tiny_window8_256', 64, SWIN),
    'swin_transformer_v2_cr': Family('swinv2_cr_tiny_224', 64, SWIN),
    'tiny_vit': Family('tiny_vit_5m_224', 64),
    'tnt': Family('tnt_s_legacy_patch16_224', 64, dict(img_size=64, depth=2)),
    'tresnet': Family('tresnet_m', 64),
    'twins': Family('twins_svt_small', 64, dict(depths=(1, 1, 1, 1))),
    'vgg': Family('vgg11', 64, dict(mlp_ratio=0.05)),
    'vgg_gap': Family('vgg16_gap', 64),
    'visformer': Family('visformer_tiny', 128, dict(img_size=128)),
    'vision_transformer': Family('test_vit', 64, dict(img_size=64)),
    'vision_transformer_hybrid': Family('vit_tiny_r_s16_p8_224', 224),
    'vision_transformer_relpos': Family('test_vit_relpos', 64, dict(img_size=64)),
    'vision_transformer_sam': Family('samvit_base_patch16_224', 64, cut(64, depth=3)),
    'vitamin': Family('vitamin_small_224', 64, dict(img_size=64)),
    'volo': Family('volo_d1_224', 128, dict(img_size=128)),
    'vovnet': Family('ese_vovnet19b_slim_dw', 64),
    'xception': Family('legacy_xception', 128),
    # Not xception41p: untrained and in eval mode, its gradient at the image is below the smallest float32.
    'xception_aligned': Family('xception41', 64),
    'xcit': Family('xcit_nano_12_p8_224', 64, dict(img_size=64)),
}
# Of the many kinds of model the ones that differ most, each walked in a second or two.
CORE = (
    'byobnet',
    'convit',
    'convnext',
    'efficientnet',
    'maxxvit',
    'naflexvit',
    'nfnet',
    'pit',
    'resnet',
    'swin_transformer',
    'vision_transformer',
)


class Walk(NamedTuple):
    """What became of a family.

    Attributes:
        results: By column: 'works', or the sentence of the refusal.
        low: Size (h, w) of the reduced image.
        is_twin: Whether position tables are resampled for it.
        default: The saliency that is taken where none is named and an early head may be added.
    """

    results: dict[str, str]
    low: tuple[int, int] | None
    is_twin: bool
    default: str


def walk(name: str) -> Walk:
    """One training step of a family with each saliency.

    Raises:
        AssertionError: A pass was not pure, or a gradient is missing or not finite.
    """
    family = FAMILIES[name]
    model = create_model(family)
    x, target = images(family.size)
    results, trained = {}, train_step(model, x, target)
    for column, augment in augments(model):
        batch = images(family.size, augment.rows_per_sample)
        before = everything(model)
        try:
            # The pass is pure; where the region falls is drawn from a stream of its own.
            x_out, target_out = augment(*batch, torch.Generator())
        except ValueError as error:
            results[column] = str(error)
            continue
        finally:
            assert_untouched(before, model)
            del before
        assert len(x_out) == BATCH
        assert augment.last['saliency'].isfinite().all() and (augment.last['saliency'].amax((1, 2, 3)) > 0.0).all()
        assert train_step(augment.model, x_out, target_out) == trained
        results[column] = WORKS
    results[RECYCLED] = recycle(model, x, target, trained)
    chosen = at_resolution(model, low_size((family.size,) * 2, 0.5), x)
    return Walk(
        results,
        low=chosen and chosen[1],
        is_twin=chosen is not None and isinstance(chosen[0], ResizedTwin),
        default=next(kind for kind in PREFERENCE if results[kind] == WORKS),
    )


def create_model(family: Family) -> nn.Module:
    """A model in training mode whose answers depend on the image: no layer starts at zero."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = timm.create_model(family.model, num_classes=CLASSES, **family.settings)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def images(size: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows * BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(BATCH).repeat(rows)


def augments(model: nn.Module) -> Iterator[tuple[str, BatchAugment]]:
    for saliency, way in PASSES.items():
        yield (
            saliency,
            keepaug.create_augment(
                'keep-cut', model=keepaug.EarlyExit(model) if way.early else model, size=16, saliency=saliency
            ),
        )
    yield 'keep-paste', keepaug.create_augment('keep-paste', model=model, size=16)


def train_step(model: nn.Module, x: Tensor, target: Tensor) -> set[str]:
    """Forward, loss and backward; the names of the bare model's parameters that get a gradient, all finite."""
    model.zero_grad()
    output = model.train()(x)
    is_early = isinstance(model, keepaug.EarlyExit)
    logits, early = output if is_early else (output, None)
    loss = sum(F.cross_entropy(answer, target) for answer in (logits if isinstance(logits, tuple) else (logits,)))
    if is_early:
        loss = loss + model.weight * F.cross_entropy(early, target)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients.values())
    if is_early:
        assert all(gradients.pop(f'head.{name}').any() for name in ('weight', 'bias'))
    return {name.removeprefix('backbone.') for name in gradients}


def recycle(model: nn.Module, x: Tensor, target: Tensor, trained: set[str]) -> str:
    """A training step that writes maps of recycled saliency, from which the next cut is drawn; 'works'.

    Raises:
        AssertionError: An image has no map after it, a gradient is missing, or the second cut saw another map.
    """
    maps = keepaug.SaliencyMaps(BATCH)
    augment = keepaug.create_augment('keep-cut', size=16, saliency=RECYCLED, maps=maps)
    edge = x.shape[-1]
    where = torch.tensor([[index, edge, edge, 0, 0, edge, edge, 0, 0] for index in range(BATCH)])  # whole images
    for is_seen in (False, True):
        x_out, target_out = augment(x, target, torch.Generator(), where=where)
        assert augment.last['saliency'].isfinite().all()
        assert augment.last['saliency'].amax((1, 2, 3)).gt(0).tolist() == [is_seen] * BATCH
        assert train_step(model, augment.recycle(x_out), target_out) == trained
        assert maps.written.all()
    return WORKS


HEADER = """# Every architecture of timm

This table shows whether a small model of each architecture module (some of them narrowed) trains with each
`--keep-saliency` of `--keep-cut`, and with `--keep-paste`. "Works" means that forward pass, loss and backward pass run,
that the gradients of a plain step are all there and finite, and that the saliency pass leaves no trace in the model.
`recycled` takes two steps, and the maps that the first one writes guide the cuts of the second.
`python -m tests.every_family --output docs/families.md` wrote it (timm {timm}, torch {torch}, CPU, batch {batch});
`tests/test_every_family.py` makes the same checks.

`low` runs on a reduced image, with the size in brackets: here half the edge, or less where the network takes only
multiples of its reduction. "Resampled" means that the model's position tables are interpolated at each pass. `default`
is what a run without `--keep-saliency` gets. `low-early` adds an early head.

| module | model | px | {columns} | default |
|---|---|---|{rules}|---|
"""


def render(walks: dict[str, Walk]) -> str:
    """The table of all families, in Markdown."""
    lines = [
        HEADER.format(
            timm=timm.__version__,
            torch=torch.__version__,
            batch=BATCH,
            columns=' | '.join(COLUMNS),
            rules='|'.join('---' for _ in COLUMNS),
        )
    ]
    for name, (results, low, is_twin, default) in walks.items():
        family = FAMILIES[name]
        cells = [
            result if result == WORKS else f'refused: {family.refused or result}'
            for result in map(results.get, COLUMNS)
        ]
        if low is not None:
            cells[COLUMNS.index('low')] += f' ({low[0]} px{", resampled" if is_twin else ""})'
        lines.append(f'| {" | ".join([name, family.model, str(family.size), *cells, default])} |\n')
    return ''.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, required=True, metavar='FILE', help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    walks = {}
    for name in FAMILIES:
        start = time.monotonic()
        walks[name] = walk(name)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f'{name:26s} {time.monotonic() - start:6.1f} s, peak so far {memory:.1f} GiB', flush=True)
    args.output.write_text(render(walks))


if __name__ == '__main__':
    main()
