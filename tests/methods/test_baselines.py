"""Baselines on the command line: torchvision's policies, Xavier weights, GridMask."""

import pytest
import torch
from timm.data.auto_augment import AutoAugment
from torch import nn

import keepaug
import train
from keepaug import options
from keepaug.data.policies import TorchvisionPolicy
from tests.scripts import TINY, refuse_train, run_train


def prepare(line):
    return keepaug.prepare(options.create_parser().parse_args(['data', *line.split()]))


def refused(line):
    with pytest.raises(ValueError) as error:
        prepare(line)
    return str(error.value)


@pytest.mark.parametrize(
    'more',
    ['', '--augment-copies 2', '--refine-epochs 1', '--no-prefetcher', '--aug-splits 2', '--train-img-sizes 32 48'],
)
def test_a_policy_of_torchvisions_takes_the_place_of_timms(more, data, tmp_path, monkeypatch, caplog):
    called = []
    monkeypatch.setattr(TorchvisionPolicy, 'forward', lambda self, image: called.append(self.magnitude) or image)
    monkeypatch.setattr(AutoAugment, '__call__', lambda self, image: pytest.fail("timm's policy was called"))
    caplog.set_level('INFO')
    run_train(f'{data} {TINY} --epochs 1 --aa tv-svhn-m7 {more}', tmp_path)
    assert set(called) == {7}
    assert 'tv-svhn-m7' in (tmp_path / 'run' / 'args.yaml').read_text()
    if 'splits' not in more:
        assert any(line.split() == ['policy', *line.split()[1:-1], 'tv-svhn-m7'] for line in caplog.text.splitlines())


def test_policies_that_are_not_there():
    assert refused('--aa tv-mnist').startswith('--aa tv-mnist is not a policy: use tv-cifar10, tv-svhn, tv-imagenet')
    assert '--aa tv-cifar10-m31 must have a magnitude from 0 to 30, got 31' in refused('--aa tv-cifar10-m31')


def test_no_aug_leaves_the_policy_out(data, tmp_path, monkeypatch):
    monkeypatch.setattr(TorchvisionPolicy, 'forward', lambda self, image: pytest.fail('the policy was called'))
    run_train(f'{data} {TINY} --epochs 1 --aa tv-cifar10 --no-aug', tmp_path)


def test_grid_mask_flags(data, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --grid-mask --grid-mask-smallest 20 --grid-mask-largest 9', tmp_path, capsys)
    assert '--grid-mask-smallest must be at most the largest distance, 9 pixels, got 20' in said
    assert '--grid-mask-prob' in refused('--grid-mask-prob 0.5') and '--grid-mask' in refused('--grid-mask-prob 0.5')


@pytest.mark.parametrize('name, spread', [('xavier-normal', 'std'), ('xavier-uniform', 'max')])
def test_xavier_weights(name, spread, data, monkeypatch):
    """Variance 2 / (fan in + fan out) of every convolution and linear layer; norms stay as they are."""
    drawn = []

    class Drawn(Exception):
        pass

    def stop(args, task):
        drawn.append(task)
        raise Drawn

    monkeypatch.setattr(train.training, 'build_optimizer', stop)
    with pytest.raises(Drawn):
        args = keepaug.prepare(train._parse_args([str(data), *TINY.split(), '--weight-init', name])[0])
        train.build(args, train.training.open_device(args))
    checked = 0
    for module in drawn[0].get_trainable_module().modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fans = module.weight.shape[0] + module.weight.shape[1], module.weight[0, 0].numel()
            std = (2 / (fans[0] * fans[1])) ** 0.5
            assert module.bias is None or not module.bias.any()
            if module.weight.numel() > 2000:
                checked += 1
                assert module.weight.std().item() == pytest.approx(std, rel=0.06)
                assert (module.weight.abs().max() > 3**0.5 * std * 1.01) == (spread == 'std')
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.bias, torch.zeros_like(module.bias))
    assert checked > 3


def test_xavier_weights_do_not_undo_others():
    assert '--pretrained' in refused('--weight-init xavier-normal --pretrained')
    assert '--torchscript' in refused('--weight-init xavier-normal --torchscript')
