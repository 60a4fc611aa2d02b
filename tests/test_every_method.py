"""Every method through the whole script: stopped and resumed, and in another person's script."""

import argparse

import pytest
import timm
import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.task import ClassificationTask

import keepaug
from keepaug import options
from tests.covering import covering_pairs
from tests.scripts import TINY, run_train

METHODS = {
    'keep-cut': '--keep-cut --keep-size 8',
    'keep-cut-full': '--keep-cut --keep-size 8 --keep-saliency full --keep-prob 0.5 --keep-windows overflow',
    'keep-cut-blind': '--keep-cut --keep-size 8 --keep-tau none',
    'keep-cut-erase': '--keep-cut erase --reprob 0.7 --remode rand --recount 2',
    'keep-cutmix': '--keep-cut cutmix --mixup 0.2 --mixup-mode elem',
    'keep-cut-early': '--keep-cut --keep-size 8 --keep-saliency early',
    'keep-cut-low-early': '--keep-cut --keep-size 8 --keep-saliency low-early',
    'early-exit': '--early-exit',
    'cutout': '--cutout 8',
    'grid-mask': '--grid-mask --grid-mask-prob 1',
    'attentive-cutmix': '--attentive-cutmix --attentive-teacher self --attentive-teacher-size 64 --mixup-prob 0.5',
    'cutmix-variant': '--cutmix-variant center-gaussian --mixup-mode elem',
    'feature-cutmix': '--feature-cutmix',
    'manifold-mixup': '--manifold-mixup 0,1,2',
    'keep-paste': '--keep-paste --keep-size 8 --aa rand-m9-mstd0.5 --reprob 0.3',
    'keep-paste-and-cut': '--keep-paste --keep-paste-size 6 --aa augmix-m5-w2 --keep-cut --keep-size 8 '
    '--keep-saliency early --train-crop-mode pad4 --mixup 0.2',
    'pad-crop': '--train-crop-mode pad4',
    'torchvision-policy': '--aa tv-cifar10-m12 --keep-paste --keep-size 8',
    'feature-dropout': '--feature-dropout dropblock --feature-dropout-block 2',
    'initialization': '--weight-init xavier-normal',
    'joint-occlusion': '--joint-occlusion saliency --keep-cut --keep-size 8',
    'occlusion-only': '--joint-occlusion cutout --occlusion-only --occlusion-keep-image 0.5 --occlusion-holes 2',
}
# What needs our own script.
OWN = {
    'copies': '--augment-copies 2 --joint-occlusion',
    'recycled': '--keep-cut --keep-size 8 --keep-saliency recycled --keep-map-size 8',
    'recycled-erase': '--keep-cut erase --keep-saliency recycled --augment-copies 2 --joint-occlusion '
    '--train-crop-mode pad4',
    'recycled-cutmix': '--keep-cut cutmix --keep-saliency recycled --mixup-mode elem --train-crop-mode rkrr',
    'uda': '--uda --uda-labels 6 --uda-ratio 2 --uda-tsa log --aa rand-m9-mstd0.5 --keep-cut --keep-size 8',
    'uda-paste': '--uda --uda-ratio 1 --uda-threshold 0.4 --uda-epoch labelled --keep-paste --keep-size 8 --aa rand-m9 '
    '--keep-saliency early --reprob 0.3',
    'refinement': '--refine-epochs 1 --refine-fade 1 --keep-cut --keep-size 8 --reprob 0.3 --mixup 0.3',
    'refinement-plain': '--refine-epochs 1 --refine-plain --keep-paste --keep-size 8 --aa rand-m9 --reprob 0.3',
}
EVERY = {**METHODS, **OWN}
# What a method does to a batch or beside it that a mode of the script may get in the way of.
KINDS = {
    'own pass': ('keep-cut', 'keep-cut-full', 'keep-cut-erase', 'keep-cutmix', 'keep-paste', 'attentive-cutmix'),
    'early head': ('keep-cut-early', 'keep-cut-low-early', 'early-exit', 'keep-paste-and-cut'),
    'mixed labels': ('keep-cutmix', 'attentive-cutmix', 'cutmix-variant', 'keep-paste-and-cut', 'refinement'),
    'inside the model': ('feature-cutmix', 'manifold-mixup', 'feature-dropout'),
    'pairs': ('keep-paste', 'keep-paste-and-cut', 'torchvision-policy'),
    'recycled': ('recycled', 'recycled-erase', 'recycled-cutmix'),
    'unlabelled': ('uda', 'uda-paste'),
    'doubled batch': ('joint-occlusion', 'copies'),
}


# In the default suite one method of each kind is resumed, and what has a state of its own.
RESUMED = {'refinement', *(method for method, _ in covering_pairs(EVERY, ['resumed'], KINDS, times=0))}


@pytest.mark.parametrize(
    'method', [pytest.param(method, marks=() if method in RESUMED else pytest.mark.slow) for method in EVERY]
)
def test_resumes(method, data, tmp_path):
    run_train(f'{data} {TINY} --epochs 1 {EVERY[method]}', tmp_path)
    run = run_train(f'{data} {TINY} --epochs 2 {EVERY[method]} --resume {tmp_path}/run/last.pth.tar', tmp_path)
    last = 1 + ('--refine-epochs 1' in EVERY[method])
    assert torch.load(run / 'last.pth.tar', weights_only=False)['epoch'] == last
    assert len((run / 'summary.csv').read_text().splitlines()) == last + 2


@pytest.mark.parametrize('prefetcher', [True, False])
@pytest.mark.parametrize('method', METHODS)
def test_works_in_anothers_script(method, prefetcher, data):
    """The four lines of the README around a script of another person, with stock's parser and timm's parts."""
    parser = options.create_train_parser()
    keepaug.add_arguments(parser)
    args = parser.parse_args(f'{data} {TINY} {METHODS[method]}'.split())
    args = keepaug.prepare(args)
    dataset = create_dataset('', root=args.data, split='train', is_training=True)
    dataset = keepaug.wrap_dataset(dataset, args)
    loader = create_loader(
        dataset,
        input_size=(3, 32, 32),
        batch_size=4,
        is_training=True,
        train_crop_mode=args.train_crop_mode,
        re_prob=args.reprob,
        re_mode=args.remode,
        re_count=args.recount,
        auto_augment=args.aa,
        num_workers=0,
        device=torch.device('cpu'),
        use_prefetcher=prefetcher,
    )
    model = timm.create_model(args.model, num_classes=3)
    task = ClassificationTask(model, criterion=LabelSmoothingCrossEntropy(0.1), verbose=False)
    task = keepaug.wrap_task(task, args)
    task.train()
    input, target = next(iter(loader))
    result = task(input, target)
    result['loss'].backward()
    assert result['output'].shape == (8 if 'joint' in method else 4, 3)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize('method', OWN)
def test_anothers_script_is_told_what_it_lacks(method, data):
    parser = options.create_train_parser()
    keepaug.add_arguments(parser)
    with pytest.raises(ValueError, match="needs keepaug's own train.py"):
        keepaug.prepare(parser.parse_args(f'{data} {TINY} {OWN[method]}'.split()))


@pytest.mark.parametrize(
    'method',
    [
        '--keep-cut cutmix',
        '--cutout 8 --cutmix 1.0',
        '--cutmix 1.0 -j 2',
        '--cutmix 1.0',
        '--cutmix 1.0 -j 2 --use-multi-epochs-loader',
        '--cutmix-variant center-gaussian',
    ],
)
def test_mixing_stops_when_told(method, data, tmp_path, monkeypatch):
    """Also in loader workers that are already running, where stock's switch never arrives."""
    soft = []
    forward = ClassificationTask.forward

    def watched(self, input, target):
        soft.append(bool((target > 0.95).any(1).all()) if target.ndim == 2 else True)
        return forward(self, input, target)

    monkeypatch.setattr(ClassificationTask, 'forward', watched)
    run_train(f'{data} {TINY} --epochs 3 --mixup-off-epoch 1 --smoothing 0 --mixup-prob 1 {method}', tmp_path)
    assert not all(soft[:3])
    assert all(soft[3:]) and len(soft) == 9


def test_nothing_is_wrapped_without_our_flags(data):
    parser = options.create_train_parser()
    keepaug.add_arguments(parser)
    args = parser.parse_args([str(data), *TINY.split()])
    assert vars(args).items() <= vars(keepaug.prepare(args)).items()
    args = keepaug.prepare(args)
    dataset = create_dataset('', root=args.data, split='train')
    assert keepaug.wrap_dataset(dataset, args) is dataset
    task = ClassificationTask(timm.create_model(args.model), verbose=False)
    assert keepaug.wrap_task(task, args) is task


def test_plain_parser_takes_our_flags():
    """A script may lack most of stock's flags."""
    parser = argparse.ArgumentParser()
    parser.add_argument('data')
    keepaug.add_arguments(parser)
    args = keepaug.prepare(parser.parse_args(['--keep-cut', '/data']))
    assert (args.data, args.keep_cut) == ('/data', 'cutout')
