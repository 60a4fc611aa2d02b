"""Fine-tuning recipes on a small set, from weights in a file."""

import re

import pytest
import timm
import torch

from tests.datasets.miniatures import write_cub
from tests.scripts import run_train
from tests.test_recipes import ROOT

# The recipe with a model that a test can afford, and all layers of which must be told apart.
SMALLER = {'base-resnet50': 'test_resnet', 'base-vit-small': 'test_vit'}


@pytest.fixture(scope='module')
def cub(tmp_path_factory):
    return write_cub(tmp_path_factory.mktemp('cub'))


@pytest.mark.parametrize('base', SMALLER)
def test_starts_from_the_weights_and_spares_the_first_layers(base, cub, tmp_path, caplog):
    caplog.set_level('INFO')
    model = timm.create_model(SMALLER[base])
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    size = '--img-size 160' if base == 'base-vit-small' else '--img-size 64'
    run = run_train(
        f'-c {ROOT}/hparams/finetune/{base}.yaml -c {ROOT}/hparams/finetune/keepcutout.yaml --dataset keepaug/cub '
        f'--data-dir {cub} --num-classes 200 --model {SMALLER[base]} --pretrained-path {tmp_path}/weights.pth {size} '
        '-b 2 --epochs 1 --warmup-epochs 0 --lr 1e-12 --device cpu -j 0',
        tmp_path,
    )
    saved = torch.load(run / 'last.pth.tar', weights_only=False)
    before, after = model.state_dict(), saved['state_dict']
    head = {name for name in before if before[name].shape != after[name].shape}
    assert head and all(re.match(r'(fc|head)\.', name) for name in head)
    for name in before.keys() - head:
        if before[name].is_floating_point() and 'running' not in name:
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    scales = {group['lr_scale'] for group in saved['optimizer']['param_groups']}
    assert max(scales) == 1 and min(scales) < 0.6 and len(scales) > 4
    assert 'keep-cut' in caplog.text and 'tau 0.6' in caplog.text
