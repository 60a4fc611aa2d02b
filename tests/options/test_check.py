"""`--check` finds what a run would stumble over, in one process, on any machine, and leaves nothing behind."""

import argparse
import contextlib

import pytest
import torch

from keepaug import options, record
from tests.scripts import TINY, refuse_train, run_train


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without CUDA')
def test_the_rest_is_checked_without_the_device(data, tmp_path, caplog, capsys):
    flags = f'{data} {TINY.replace("--device cpu", "--device cuda")}'
    assert '--device cuda is not available to torch here: say --device cpu' in refuse_train(flags, tmp_path, capsys)
    with caplog.at_level('INFO', 'train'):
        run_train(f'{flags} --check', tmp_path)
    assert '--device cuda is not available to torch here. The rest is checked.' in caplog.text
    assert 'The flags fit together.' in caplog.text
    assert '--opt nosuch' in refuse_train(f'{flags} --check --opt nosuch', tmp_path, capsys)


FOUND = {
    '--eval-metric top2': ['--eval-metric top2', 'top1'],
    '--early-exit --early-exit-stage 9': ['stage 9', 'layer1'],
    '--joint-occlusion saliency --occlusion-layer nix': ['--occlusion-layer', 'nix'],
    '--gp nix': ['--model test_resnet', 'nix'],
    '--model-kwargs nix=1': ['--model test_resnet', 'nix'],
    '-b 64': ['--batch-size 64'],
    '--resume {run}/last.pth.tar --opt adamw': ['--resume', '--opt adamw'],
    '--resume {run}/last.pth.tar --model test_vit': ['--resume', '--model test_vit'],
    '--resume {run}/last.pth.tar --exact-resume': ['--resume', '--exact-resume'],
    '--train-img-sizes 32 64 --train-size-probs 0.5': ['--train-size-probs 0.5', '--train-img-sizes 32 64'],
    '--train-img-sizes 32 64 --train-batch-sizes 8': ['--train-batch-sizes 8', '--train-img-sizes 32 64'],
}


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    return run_train(f'{data} {TINY} --epochs 1', tmp_path_factory.mktemp('run'))


@pytest.mark.parametrize('flags', FOUND)
def test_what_only_model_and_data_tell_is_found(flags, data, run, tmp_path, capsys):
    said = refuse_train(f'{data} {TINY} --check {flags.format(run=run)}', tmp_path, capsys)
    for word in ' '.join(FOUND[flags]).split():
        assert word in said
    assert not (tmp_path / 'run').exists()


def test_a_folder_that_cannot_be_made_is_told_before_the_model_is_built(data, tmp_path, capsys, caplog):
    (tmp_path / 'file').touch()
    for flags in ('', '--check'):
        with caplog.at_level('INFO', 'train'):
            said = refuse_train(f'{data} {TINY} {flags}', tmp_path / 'file', capsys)
        assert f'{tmp_path}/file/run' in said and '--output' in said and 'Model ' not in caplog.text


@pytest.mark.parametrize(
    'environment, looks',
    [
        ({}, True),
        ({'WORLD_SIZE': '2', 'RANK': '0'}, True),
        ({'WORLD_SIZE': '2', 'RANK': '1'}, False),
        ({'SLURM_NTASKS': '2', 'SLURM_PROCID': '1'}, False),
    ],
)
def test_only_the_process_that_writes_looks_at_its_folder(environment, looks, tmp_path, monkeypatch):
    """On several machines the others may not have the disk that it lies on."""
    for name in ('WORLD_SIZE', 'RANK', 'SLURM_NTASKS', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / 'file').touch()
    args = argparse.Namespace(output=str(tmp_path / 'file'), experiment='run')
    with pytest.raises(ValueError, match='--output') if looks else contextlib.nullcontext():
        record.check_output(args)


@pytest.mark.parametrize(
    'flags, told',
    [
        ('--mixup-prob 0.3', 'without effect: --mixup-prob 0.3'),
        ('--resume {run}/last.pth.tar', 'can be built'),
        ('--keep-cut -j 2 --use-multi-epochs-loader --pretrained', 'left out of the check: the weights of --model'),
        ('--attentive-cutmix', 'left out of the check: --attentive-cutmix'),
        ('--kd-model-name test_vit', 'left out of the check: --kd-model-name test_vit'),
        ('--dataset hfds/nix', '--dataset hfds/nix may have to be fetched'),
    ],
)
def test_what_passes_leaves_nothing_behind(flags, told, data, run, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')  # nobody else comes
    with caplog.at_level('INFO', 'train'):
        run_train(f'{data} {TINY} --check {flags.format(run=run)}', tmp_path)
    assert told in caplog.text and 'The flags fit together.' in caplog.text
    assert not list(tmp_path.iterdir())


def test_an_exact_resumption_is_checked_in_one_process(data, tmp_path, capsys, caplog):
    run = run_train(f'{data} {TINY} --epochs 1 --exact-resume', tmp_path)
    last = torch.load(run / 'last.pth.tar', weights_only=False)
    last['exact_resume']['flags'] |= {'world_size': '8', 'distributed': 'True'}
    torch.save(last, run / 'last.pth.tar')
    resume = f'{data} {TINY} --epochs 1 --exact-resume --resume {run}/last.pth.tar'
    run_train(f'{resume} --check', tmp_path)
    assert '--lr' in refuse_train(f'{resume} --check --lr 1', tmp_path, capsys)
    assert 'the number of processes' in refuse_train(resume, tmp_path, capsys)


def test_the_learning_rate_is_that_of_all_processes(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('WORLD_SIZE', '3')
    with caplog.at_level('INFO', 'train'):
        run_train(f'{data} {TINY.replace("--lr 0.05", "")} --check --aug-repeats 3', tmp_path)
    assert 'global batch size (24)' in caplog.text and 'one process' not in caplog.text
    monkeypatch.delenv('WORLD_SIZE')
    caplog.clear()
    with caplog.at_level('INFO', 'train'):
        run_train(f'{data} {TINY.replace("--lr 0.05", "")} --check', tmp_path)
    assert 'global batch size (8)' in caplog.text and 'WORLD_SIZE' in caplog.text


def test_a_share_below_one_batch_is_found(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '4')
    said = refuse_train(f'{data} {TINY} --check', tmp_path, capsys)
    assert 'each of 4 processes 6 images' in said and '--batch-size 8' in said


def test_a_device_module_is_imported_before_its_backend_is_asked_for(data, tmp_path, monkeypatch, capsys):
    (tmp_path / 'brings_backend.py').write_text(
        'import torch._dynamo\ntorch._dynamo.register_backend(lambda graph, inputs: graph, name="brought")\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    flags = f'{data} {TINY} --check --torchcompile brought'
    assert 'brought' in refuse_train(flags, tmp_path / 'runs', capsys)
    run_train(f'{flags} --device-modules brings_backend', tmp_path / 'runs')


def test_a_device_of_another_machine_is_left_out(data, tmp_path, capsys, caplog):
    flags = f'{data} {TINY} --device-modules not_here'
    assert '--device-modules not_here' in refuse_train(flags, tmp_path, capsys)
    with caplog.at_level('INFO', 'train'):
        run_train(f'{flags} --check', tmp_path)
    assert '--device-modules not_here cannot be imported here' in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without CUDA')
def test_an_optimizer_that_needs_cuda_is_left_out(data, tmp_path, capsys, caplog):
    flags = f'{data} {TINY.replace("--lr 0.05", "")} --opt fusedadam'
    assert '--opt fusedadam' in refuse_train(flags, tmp_path, capsys)
    with caplog.at_level('INFO', 'train'):
        run_train(f'{flags} --check', tmp_path)
    assert 'left out of the check: --opt fusedadam' in caplog.text and 'sqrt scaling' in caplog.text


@pytest.mark.parametrize('model', ['HF-HUB:timm/nix', 'hf_hub:timm/nix', 'hf-hub:timm/nix'])
def test_a_model_of_the_hub_is_known_however_it_is_spelt(model, data, tmp_path, caplog):
    with caplog.at_level('INFO', 'train'):
        run_train(f'{data} {TINY.replace("test_resnet", model)} --check', tmp_path)
    assert f'--model {model} may have to be fetched' in caplog.text


def test_batches_of_patches_are_not_counted_in_images():
    args = argparse.Namespace(naflex_loader=True, world_size=2, batch_size=8, train_img_sizes=None)
    options.check_share(args, range(9))
    with pytest.raises(ValueError, match='--batch-size 8'):
        options.check_share(argparse.Namespace(**vars(args) | {'naflex_loader': False}), range(9))


def test_shares_of_repeats_are_those_of_the_sampler():
    """Its share of 300 images for two processes is half of 256."""
    args = argparse.Namespace(naflex_loader=False, world_size=2, batch_size=140, train_img_sizes=None)
    options.check_share(args, range(300))
    with pytest.raises(ValueError, match='128 images'):
        options.check_share(args, range(300), 3)
