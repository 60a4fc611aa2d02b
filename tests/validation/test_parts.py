"""The parts of a validation: what its passes leave in a model, several results in one file, several processes."""

import argparse
import csv
import os
from unittest import mock

import pytest
import timm
import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import nn

import validate
from keepaug import options, training, validation
from keepaug.training import Forward
from keepaug.validation import model
from keepaug.validation import runs as validated
from keepaug.validation.results import check_files


class Remembering(nn.Module):
    """Keeps what it computes from its weights alone, as timm's LeViT and TinyViT keep the bias of their attention."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = 2 * self.weight
        return x.mean((2, 3)) * self.kept


def test_a_gradient_can_be_asked_of_a_model_after_its_passes():
    """As FGSM, ODIN and saliency do."""
    x = torch.rand(2, 4, 8, 8, requires_grad=True)
    args = argparse.Namespace(batch_size=2)
    passes = [
        lambda model: validation.warm_up(model, args, dict(input_size=(4, 8, 8)), Forward()),
        lambda model: training.validate(
            model, [(x.detach(), torch.tensor([0, 1]))], ClassificationEvaluator(), Forward()
        ),
    ]
    for run_pass in passes:
        model = Remembering()
        run_pass(model)
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        assert gradient.unique().item() == pytest.approx(2 / 64)


def test_rows_of_different_columns(tmp_path):
    """Not each model has a hundredth singular value, an exported one has no checkpoint."""
    path = str(tmp_path / 'rows.csv')
    validation.write_results(path, [dict(model='a', top1=2.0), dict(model='b', top1=1.0, checkpoint='b.pth', more=3.0)])
    with open(path, newline='') as file:
        assert list(csv.DictReader(file)) == [
            dict(model='a', top1='2.0', checkpoint='', more=''),
            dict(model='b', top1='1.0', checkpoint='b.pth', more='3.0'),
        ]


def _fails(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize('error', [ValueError('a box lies outside'), RuntimeError('CUDA out of memory.')])
def test_an_error_of_one_of_several_processes_ends_all(error, monkeypatch):
    """What it did next would enter sums that the others make of something else."""
    runs = [dict(model='a', checkpoint='', label='a')] * 2
    args = argparse.Namespace(analysis_dir='', batch_size=8, num_gpu=1, model='a', task='classification')
    with mock.patch.object(validate, 'validate', _fails(error)):
        assert validate.validate_several(args, runs) == ([], runs)
        monkeypatch.setattr(validate, 'process_count', lambda: 2)
        with pytest.raises(type(error), match=str(error)):
            validate.validate_several(args, runs)


def test_starting_over_is_refused_in_several_processes(monkeypatch):
    monkeypatch.setattr('keepaug.validation.processes.is_distributed_env', lambda: True)
    args = argparse.Namespace(real_labels='', naflex_loader=False, retry=True)
    with pytest.raises(ValueError, match='--retry'):
        validation.join_processes(args)


@pytest.mark.parametrize('arch', [7, None, ['test_resnet']])
def test_an_architecture_that_is_no_name(arch, tmp_path):
    path = tmp_path / 'odd.pth.tar'
    torch.save(dict(arch=arch, state_dict={'weight': torch.ones(1)}), path)
    args = argparse.Namespace(model='test_resnet', checkpoint='a.pth', compare=[str(path)], typed=None, use_ema=False)
    assert validated.choose_runs(args)[1]['model'] == 'test_resnet'


def test_labels_may_come_through_a_pipe(tmp_path):
    """As of `--valid-labels <(grep ...)`, which a shell gives as a file that is none on a disk."""
    os.mkfifo(tmp_path / 'labels')
    args = argparse.Namespace(results_file='', real_labels='', valid_labels=str(tmp_path / 'labels'))
    check_files(args)
    for path in (tmp_path, tmp_path / 'nix'):
        args.valid_labels = str(path)
        with pytest.raises(ValueError, match='--valid-labels'):
            check_files(args)


def test_a_checkpoint_that_fails_while_it_is_read_is_named(tmp_path, monkeypatch):
    folder = tmp_path / 'a. b'
    folder.mkdir()
    network = timm.create_model('test_resnet', num_classes=3)
    torch.save({'state_dict': network.state_dict()}, folder / 'last.pth')
    line = '/ --model test_resnet --num-classes 3 --device cpu --checkpoint'.split()
    args = options.complete_validation(validate.parser.parse_args([*line, str(folder / 'last.pth')]))

    def fail(*_):
        raise OSError(5, 'Input/output error', str(folder / 'last.pth'))

    monkeypatch.setattr(model, 'load_checkpoint', fail)
    with pytest.raises(ValueError, match='--checkpoint .*/a. b/last.pth cannot be read .*give a file'):
        model.load_model(args, timm.create_model)

    def fail_to_build(**_):
        raise OSError(13, 'Permission denied', str(folder / 'weights'))

    args.checkpoint = ''
    with pytest.raises(ValueError, match='--model test_resnet .*/a. b/weights'):
        model.load_model(args, fail_to_build)
