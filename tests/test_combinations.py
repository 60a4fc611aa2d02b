"""Every mode of the stock script with every method: it trains, or is refused with the sentence of the table.

python -m tests.test_combinations    # writes docs/combinations.md
"""

import argparse
import shlex
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

import keepaug
import keepaug.data.sets
from keepaug import options
from keepaug.methods import all_methods
from tests.covering import covering_pairs
from tests.readers import create_several_labels, create_stream
from tests.scripts import TINY, refuse_train, run_train
from tests.test_every_method import EVERY, KINDS, RESUMED

TABLE = Path(__file__).parents[1] / 'docs' / 'combinations.md'
HEADER = """# What combines

This page lists which methods work with which modes of timm's training script. `python -m tests.test_combinations`
writes it.

The tests train every combination that works. For the others they check that the run is refused, before any data is
read, with the sentence quoted here. `make test` covers a sample in which every kind of method meets every mode that may
interfere with it; `make test-slow` covers all of them. Several processes have no row, since every method also trains
under `distributed_train.sh` (`tests/training/test_distributed.py`).

The methods, as the tests run them:

"""

# Modes of the script. `{teacher}` is a checkpoint.
MODES = {
    'no-prefetcher': '--no-prefetcher',
    'workers': '-j 2',
    'ema-accumulation': '--model-ema --grad-accum-steps 2 --clip-grad 1.0',
    'amp': '--amp --amp-dtype bfloat16',
    'half-model': '--model-dtype bfloat16',
    'channels-last': '--channels-last',
    'compile': '--torchcompile aot_eager',
    'inductor': '--torchcompile',
    'bce': '--bce-loss --smoothing 0',
    'odd-batch': '-b 5',
    'non-square': '--input-size 3 32 40',
    'grey': '--in-chans 1',
    'checkpointing': '--grad-checkpointing',
    'mixing': '--mixup 0.2 --cutmix 1.0',
    'autoaugment': '--aa rand-m9-mstd0.5',
    'erasing': '--reprob 0.5',
    'no-aug': '--no-aug',
    'mixup-elem': '--mixup 0.2 --cutmix 1 --mixup-mode elem --mixup-off-epoch 1',
    'cutmix-minmax': '--cutmix-minmax 0.2 0.8',
    'splits': '--aug-splits 2 --jsd-loss',
    'split-bn': '--aug-splits 2 --split-bn',
    'sizes': '--train-img-sizes 32 48 --variable-batch-loss-scale linear',
    'multi-epochs-loader': '--use-multi-epochs-loader -j 1',
    'naflex': '--model test_vit --model-kwargs use_naflex=True --naflex-loader --naflex-train-seq-lens 4',
    'stream': '--dataset wds/fixture',
    'vit': '--model test_vit --layer-decay 0.7 --opt adamw',
    'dropping': '--model test_convnext --drop 0.1 --drop-path 0.1',
    'poly-loss': '--loss poly',
    'class-weights': '--loss bce --loss-class-weight 1,2,3',
    'multilabel': '--task multilabel --dataset hfds/fixture',
    'logit-distillation': '--kd-model-name test_resnet --kd-pretrained-path {teacher}',
    'feature-distillation': '--kd-model-name test_resnet --kd-pretrained-path {teacher} --kd-distill-type feature',
    'token-distillation': '--kd-model-name test_resnet --kd-pretrained-path {teacher} --kd-distill-type token '
    '--model deit_tiny_distilled_patch16_224 --model-kwargs depth=1 embed_dim=32 num_heads=2',
    'torchscript': '--torchscript',
    'agc': '--clip-grad 0.1 --clip-mode agc',
    'lookahead': '--opt lookahead_adamw',
    'wsd-on-updates': '--sched wsd --sched-on-updates --decay-epochs 0.5',
    'recovery': '--recovery-interval 1 --save-images --log-interval 1',
}
# Readers that stand for those of packages we do not have.
READERS = {'stream': create_stream, 'multilabel': create_several_labels}
# What the flags do not tell and the model does, by the class of the mode's model.
NO_STAGES = (
    '--feature-dropout dropblock is not possible: {} has no convolutions in its last two stages whose features '
    'could be dropped: choose another model, such as a ResNet.'
)
BY_MODEL = {
    ('feature-dropout', 'vit'): NO_STAGES.format('VisionTransformer'),
    ('feature-dropout', 'naflex'): NO_STAGES.format('NaFlexVit'),
    ('feature-dropout', 'token-distillation'): NO_STAGES.format('VisionTransformerDistilled'),
    (
        'feature-dropout',
        'dropping',
    ): '--feature-dropout dropblock is not possible: DropBlock also drops on shortcuts, but those of '
    'ConvNeXt are unknown: choose dropout or spatial, or a ResNet.',
}
# A compiler takes half a minute; the one method with a pass of its own beside the compiled model stands for all.
COMPILED = ('compile', 'inductor')
# What sets in behind the loss, or does as another mode does where methods work: any two methods stand for all.
APART = (
    'agc',
    'class-weights',
    'cutmix-minmax',
    'dropping',
    'erasing',
    'lookahead',
    'multi-epochs-loader',
    'recovery',
    'split-bn',
    'wsd-on-updates',
)


def forms() -> dict[str, str]:
    """Flags by name: an example of every method, in the order of the registry, and further forms of some."""
    return {**{method.name: method.example for method in all_methods()}, **EVERY}


def command(method: str, mode: str, data: str = 'data', teacher: str = '') -> str:
    flags = MODES[mode].format(teacher=teacher)
    shape = TINY.replace('--img-size 32', '') if '--input-size' in flags else TINY
    return f'{"" if "--dataset" in flags else data} {shape} --epochs 1 {forms()[method]} {flags}'


@cache
def _parser(registered: tuple) -> argparse.ArgumentParser:
    """The parser while these methods are registered."""
    return options.create_parser()


@cache
def refusal(method: str, mode: str, teacher: str = __file__) -> str:
    """The sentence that refuses the two together; empty where there is none."""
    if (method, mode) in BY_MODEL:
        return BY_MODEL[method, mode]
    args = _parser(all_methods()).parse_args(shlex.split(command(method, mode, teacher=teacher)))
    try:
        options.check_stock(keepaug.prepare(args))
    except ValueError as error:
        return str(error)
    return ''


def table() -> str:
    rows = ['| method | flags |', '|---|---|', *(f'| {name} | `{flags}` |' for name, flags in forms().items())]
    rows += ['', '| stock mode | flags | works with | refused |', '|---|---|---|---|']
    for mode, flags in MODES.items():
        said = defaultdict(list)
        for method in forms():
            said[refusal(method, mode)].append(method)
        works = said.pop('', [])
        refused = '<br>'.join(f'{", ".join(methods)}: {sentence}' for sentence, methods in said.items())
        shown = flags.format(teacher='FILE')
        rows.append(f'| {mode} | `{shown}` | {", ".join(works) if said else "all"} | {refused} |')
    return HEADER + '\n'.join(rows) + '\n'


def refused_in_table() -> list[tuple[str, str]]:
    """The pairs that the written table has refused, which takes seconds to find out anew."""
    rows = [[cell.strip() for cell in line.split('|')[1:4]] for line in TABLE.read_text().splitlines()]
    works = {row[0]: row[2] for row in rows if len(row) == 3 and row[0] in MODES}
    return [
        (method, mode)
        for mode in works
        if works[mode] != 'all'
        for method in EVERY
        if method not in works[mode].split(', ')
    ]


def sample() -> list[tuple[str, str]]:
    """Pairs that stand for all: every kind of method meets each mode that may be in its way; each mode refuses once."""
    modes = [mode for mode in MODES if mode not in COMPILED]
    first_refused = {mode: (method, mode) for method, mode in reversed(REFUSED)}
    trained = covering_pairs(EVERY, modes, KINDS, without=set(REFUSED), apart=APART)
    return [*trained, *first_refused.values(), ('keep-cut', 'compile')]


REFUSED = refused_in_table()
SAMPLE = sample()


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.xdist_group('combinations')  # what is found out is kept
def test_table_is_current():
    assert TABLE.read_text() == table(), 'run: python -m tests.test_combinations'


def test_sample_covers_methods_modes_and_kinds():
    trained = set(SAMPLE) - set(REFUSED)
    assert set().union(RESUMED, *KINDS.values()) <= set(EVERY) and set(APART) <= set(MODES)
    for method in EVERY:
        assert sum(method == one for one, _ in trained) >= 2
    for mode in set(MODES) - set(COMPILED):
        works = [method for method in EVERY if (method, mode) not in REFUSED]
        assert sum(mode == other for _, other in trained) >= min(2, len(works))
        for kind in KINDS.values() if mode not in APART else ():
            assert any((method, mode) in trained for method in kind) or not set(kind) & set(works)
        assert len(works) == len(EVERY) or any((method, mode) in SAMPLE for method in set(EVERY) - set(works))


@pytest.mark.parametrize(
    'method, mode',
    [
        *SAMPLE,
        *(
            pytest.param(method, mode, marks=pytest.mark.slow)
            for method in forms()
            for mode in MODES
            if (method, mode) not in SAMPLE
        ),
    ],
)
def test_trains_or_is_refused(method, mode, data, teacher, tmp_path, capsys, monkeypatch):
    if mode in READERS:
        monkeypatch.setattr(keepaug.data.sets, 'create_dataset', READERS[mode])
    flags, sentence = command(method, mode, data, teacher), refusal(method, mode)
    if sentence:
        assert sentence.replace(__file__, str(teacher)) in refuse_train(flags, tmp_path, capsys)
        return
    run = run_train(flags, tmp_path)
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    assert all(tensor.isfinite().all() for tensor in state.values())


if __name__ == '__main__':
    TABLE.write_text(table())
