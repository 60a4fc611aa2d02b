"""Every mode of the stock script with every method: it trains, or is refused with the sentence of the table.

    python -m tests.test_combinations    # writes docs/combinations.md
"""
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
import timm
import torch

import keepaug
import keepaug.data.sets
from keepaug import options
from tests.readers import create_several_labels, create_stream
from tests.scripts import TINY, refuse_train, run_train
from tests.test_every_method import EVERY, MODES

TABLE = Path(__file__).parents[1] / 'docs' / 'combinations.md'
HEADER = """# What combines

Every mode of timm's training script with every method here, written by `python -m tests.test_combinations`. Each row
is trained by the tests, or refused with the sentence that is quoted, before any data is read. Several processes are not a
row: every method trains under `distributed_train.sh` too (`tests/training/test_distributed.py`).

The methods, as the tests run them:

"""

# More modes than `test_every_method.py` has, which trains each of its own with each method. `{teacher}` is a checkpoint.
MORE_MODES = {
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
PARSER = options.create_parser()
# In the default suite these stand for all methods.
FAST = ('keep-cut', 'keep-paste')


def command(method: str, mode: str, data: str = 'data', teacher: str = '') -> str:
    flags = {**MODES, **MORE_MODES}[mode].format(teacher=teacher)
    shape = TINY.replace('--img-size 32', '') if '--input-size' in flags else TINY
    return f'{"" if "--dataset" in flags else data} {shape} --epochs 1 {EVERY[method]} {flags}'


def refusal(method: str, mode: str, teacher: str = __file__) -> str:
    """The sentence that refuses the two together; empty where there is none."""
    args = PARSER.parse_args(shlex.split(command(method, mode, teacher=teacher)))
    try:
        options.check_stock(keepaug.prepare(args))
    except ValueError as error:
        return str(error)
    return ''


def table() -> str:
    rows = ['| method | flags |', '|---|---|', *(f'| {name} | `{flags}` |' for name, flags in EVERY.items())]
    rows += ['', '| stock mode | flags | works with | refused |', '|---|---|---|---|']
    for mode, flags in {**MODES, **MORE_MODES}.items():
        said = defaultdict(list)
        for method in EVERY:
            said[refusal(method, mode)].append(method)
        works = said.pop('', [])
        refused = '<br>'.join(f'{", ".join(methods)}: {sentence}' for sentence, methods in said.items())
        shown = flags.format(teacher='FILE')
        rows.append(f'| {mode} | `{shown}` | {", ".join(works) if said else "all"} | {refused} |')
    return HEADER + '\n'.join(rows) + '\n'


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), path)
    return path


def test_table_is_current():
    assert TABLE.read_text() == table(), 'run: python -m tests.test_combinations'


@pytest.mark.parametrize('method, mode', [
    pytest.param(method, mode, marks=() if method in FAST else pytest.mark.slow)
    for method in EVERY for mode in MORE_MODES])
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
