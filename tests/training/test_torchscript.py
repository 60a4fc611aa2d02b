"""Training a scripted model."""

import pytest
import timm
import torch

from tests.scripts import TINY, refuse_train, refuse_validate, run_train


@pytest.mark.parametrize(
    'flags',
    ['', '--model-ema --channels-last', '--keep-cut --keep-saliency full', '--keep-cut --keep-tau none', '--cutout 8'],
)
def test_trains_and_resumes(flags, data, tmp_path):
    run_train(f'{data} {TINY} --torchscript {flags} --epochs 1', tmp_path)
    run = run_train(f'{data} {TINY} --torchscript {flags} --resume auto', tmp_path)
    state = torch.load(run / 'last.pth.tar', weights_only=False)['state_dict']
    timm.create_model('test_resnet', num_classes=3).load_state_dict(state)


def test_a_model_that_cannot_be_scripted(data, tmp_path, capsys):
    flags = '--torchscript --model test_vit --model-kwargs use_naflex=True'
    checkpoint = tmp_path / 'naflex.pth'
    torch.save(timm.create_model('test_vit', use_naflex=True, num_classes=3).state_dict(), checkpoint)
    validate_flags = f'--num-classes 3 --device cpu -j 0 -b 8 --checkpoint {checkpoint}'
    for said in (
        refuse_train(f'{data} {TINY} {flags}', tmp_path, capsys),
        refuse_validate(f'{data} {flags} {validate_flags}', capsys),
    ):
        assert '--torchscript' in said and '--model test_vit' in said
