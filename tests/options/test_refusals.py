"""Combinations that cannot work are refused in one sentence; what is taken over from stock is stood down."""

import argparse
import copy

import pytest
import torch
import yaml

from keepaug.options import (
    check_stock,
    check_validate,
    complete_validation,
    create_parser,
    create_train_parser,
    prepare,
)
from tests.sentences import says

# What is refused, and what the sentence must name.
OURS = [
    ('--keep-cut --keep-tau 1.5', '--keep-tau 1.5'),
    ('--keep-cut --keep-tau -0.1', '--keep-tau -0.1'),
    ('--keep-cut --keep-tau nan', '--keep-tau nan'),
    ('--keep-cut --keep-size 0', '--keep-size 0'),
    ('--keep-cut --keep-prob 2', '--keep-prob 2.0'),
    ('--keep-cut --keep-prob -1', '--keep-prob -1.0'),
    ('--keep-cut --keep-low-scale 0', '--keep-low-scale 0.0'),
    ('--keep-cut --keep-low-scale 1.5', '--keep-low-scale 1.5'),
    ('--cutout -3', '--cutout -3'),
    ('--cutout 33 --img-size 32', '--cutout 33', 'at most 32'),
    ('--keep-cut --naflex-loader', '--keep-cut', '--naflex-loader'),
    ('--cutout --naflex-loader', '--cutout', '--naflex-loader'),
    ('--keep-cut --aug-splits 3', '--keep-cut', '--aug-splits 3', 'drop one'),
    ('--cutout --aug-splits 3', '--cutout', '--aug-splits 3', 'drop one'),
    ('--joint-occlusion cutoff --data-dir /tmp', 'cutoff', '--joint-occlusion', 'hide-and-seek, cutout'),
    ('--keep-cut cutmx', 'cutmx', '--keep-cut', 'cutmix'),  # a close miss, also where no folder is given otherwise
    ('--risk-samples 8 --task multilabel', '--risk-samples 8', '--task multilabel'),
    ('--refine-epochs 1 --refine-fade 5 --epochs 3', '--refine-fade 5', 'at most 3'),
    ('--keep-cut --cutout', '--keep-cut', '--cutout'),
    ('--keep-cut erase --reprob 0.3 --keep-prob 0.5', '--reprob 0.3', '--keep-prob 0.5'),
    ('--keep-cut cutmix --mixup-prob 0.3 --keep-prob 0.5', '--mixup-prob 0.3', '--keep-prob 0.5'),
    ('--keep-cut cutmix --keep-size 8', '--keep-size 8', 'cutmix'),
    ('--keep-cut --cutmix 1 --mixup-mode half', '--mixup-mode half', 'elem'),
    ('--keep-cut erase --keep-size 8', '--keep-size 8', 'erase'),
    ('--keep-cut erase --resplit', '--resplit has no effect', 'erase'),
    ('--train-crop-mode pad4 --scale 0.5 1', '--scale 0.5 1.0 has no effect'),
    ('--keep-cut --keep-saliency full --keep-low-scale 0.3', '--keep-low-scale 0.3'),
    ('--train-crop-mode pad4 --scale 0.5 1', '--scale', 'pad4'),
    ('--keep-tau 0.5', '--keep-tau 0.5', '--keep-cut'),
    ('--keep-tau none', '--keep-tau none', '--keep-cut'),
    ('--keep-size 8', '--keep-size 8', '--keep-cut'),
    ('--keep-prob 1', '--keep-prob 1.0', '--keep-cut'),
    ('--keep-saliency low', '--keep-saliency low', '--keep-cut'),
    ('--keep-low-scale 0.25', '--keep-low-scale 0.25', '--keep-cut'),
    ('--cutout --keep-size 8', '--keep-size 8', '--keep-cut'),
    ('--keep-cut --keep-tau none --keep-saliency full', '--keep-saliency full', '--keep-tau none'),
    ('--keep-windows overflow', '--keep-windows overflow', '--keep-cut'),
    ('--keep-paste --aa rand-m9 --keep-windows overflow', '--keep-windows overflow', '--keep-cut'),
    ('--keep-cut erase --keep-windows overflow', '--keep-windows overflow', 'erase'),
    ('--keep-cut cutmix --cutmix-minmax 0.2 0.8 --keep-windows overflow', '--keep-windows overflow', '--cutmix-minmax'),
    ('--keep-paste', '--keep-paste', '--aa'),
    ('--keep-paste --aa rand-m9 --no-aug', '--keep-paste', '--no-aug'),
    ('--keep-paste --aa rand-m9 --naflex-loader', '--keep-paste', '--naflex-loader'),
    ('--keep-paste --aa rand-m9 --aug-splits 3', '--keep-paste', '--aug-splits 3'),
    ('--keep-paste --aa rand-m9 --train-img-sizes 32 64', '--keep-paste', '--train-img-sizes'),
    ('--keep-paste --aa rand-m9 --resplit', '--keep-paste', '--resplit'),
    ('--keep-paste --aa rand-m9 --keep-paste-size 0', '--keep-paste-size 0'),
    ('--keep-paste --aa rand-m9 --keep-paste-size 33 --img-size 32', '--keep-paste-size 33', 'at most 32'),
    ('--keep-paste --aa rand-m9 --keep-paste-size 8 --keep-size 6', '--keep-size 6', '--keep-paste-size'),
    ('--keep-paste --aa rand-m9 --cutmix 1 --mixup-mode half', '--mixup-mode half', 'elem'),
    ('--keep-paste --aa rand-m9 --keep-paste-size 8 --keep-cut erase --keep-size 6', '--keep-size 6', 'erase'),
    ('--keep-paste-size 8', '--keep-paste-size 8', '--keep-paste'),
    ('--early-exit-weight 0.5', '--early-exit-weight 0.5', '--early-exit'),
    ('--keep-cut --keep-saliency low --early-exit-stage layer2', '--early-exit-stage layer2', '--early-exit'),
    ('--joint-occlusion --naflex-loader', '--joint-occlusion', '--naflex-loader'),
    ('--joint-occlusion --aug-splits 3', '--joint-occlusion', '--aug-splits 3', 'drop one'),
    ('--augment-copies 0', '--augment-copies 0'),
    ('--refine-epochs -1', '--refine-epochs -1'),
    ('--refine-epochs 2 --refine-fade -1', '--refine-fade -1'),
    ('--risk-samples -1', '--risk-samples -1'),
    ('--risk-samples 1', '--risk-samples 1', 'at least 2'),
    ('--refine-epochs 2 --naflex-loader', '--refine-epochs 2', '--naflex-loader'),
    ('--refine-epochs 2 --aug-splits 3', '--refine-epochs 2', '--aug-splits 3', 'drop one'),
    ('--refine-fade 2', '--refine-fade 2', '--refine-epochs'),
    ('--refine-lr 0.1', '--refine-lr 0.1', '--refine-epochs'),
    ('--refine-epochs 2 --refine-lr 0', '--refine-lr 0.0'),
    ('--refine-epochs 2 --sched plateau', '--refine-epochs', '--sched plateau', '--refine-lr'),
    ('--refine-epochs 2 --refine-fade 2 --cutmix 1 --mixup-mode half', '--mixup-mode half', 'elem'),
    ('--augment-copies 2 --naflex-loader', '--augment-copies 2', '--naflex-loader'),
    ('--augment-copies 2 --aug-splits 3', '--augment-copies 2', '--aug-splits 3', 'drop one'),
    ('--joint-occlusion --occlusion-grid 0', '--occlusion-grid 0'),
    ('--joint-occlusion cutout --occlusion-holes 0', '--occlusion-holes 0'),
    ('--joint-occlusion cutout --occlusion-size 0', '--occlusion-size 0'),
    ('--joint-occlusion saliency --occlusion-jitter -1', '--occlusion-jitter -1'),
    ('--joint-occlusion --occlusion-keep-patch 2', '--occlusion-keep-patch 2.0'),
    ('--joint-occlusion --occlusion-keep-image -1', '--occlusion-keep-image -1.0'),
    ('--joint-occlusion --occlusion-size 8', '--occlusion-size 8', 'hide-and-seek'),
    ('--joint-occlusion cutout --occlusion-keep-patch 0.7', '--occlusion-keep-patch 0.7', 'cutout'),
    ('--joint-occlusion none --occlusion-only', '--occlusion-only', 'none'),
    ('--occlusion-only', '--occlusion-only', '--joint-occlusion'),
    ('--occlusion-layer layer1', '--occlusion-layer layer1', '--joint-occlusion'),
    ('--joint-occlusion saliency --torchscript', '--joint-occlusion saliency', '--torchscript'),
    ('--train-crop-mode pad4 --naflex-loader', '--train-crop-mode pad4', '--naflex-loader'),
    ('--train-crop-mode pad4 --train-img-sizes 32 64', '--train-crop-mode pad4', '--train-img-sizes'),
]
MULTI = '--task multilabel --dataset hfds/x'
STOCK = [
    ('--model resnet5', '--model resnet5', 'resnet50'),
    ('--model resnet5.a1_in1k', '--model resnet5.a1_in1k', 'resnet50'),
    ('--model qqqqqqqq', '--model qqqqqqqq'),
    ('--model timm/resnet50', '--model timm/resnet50', 'hf-hub:'),
    ('--model http:resnet50', '--model http:resnet50', 'hf-hub:'),
    ('--opt adamww', '--opt adamww', 'adamw'),
    ('--sched cosin', '--sched cosin', 'cosine'),
    ('--clip-mode norms', '--clip-mode norms', 'agc'),
    ('--dist-bn mean', '--dist-bn mean', 'reduce'),
    ('--mixup-mode all', '--mixup-mode all', 'elem'),
    ('--remode noise', '--remode noise', 'pixel'),
    ('--train-crop-mode pad5', '--train-crop-mode pad5', 'pad4'),
    ('--device cuda', '--device cuda', '--device cpu'),
    ('--device cuda:1', '--device cuda:1', '--device cpu'),
    ('--amp-dtype float32', '--amp-dtype float32', 'bfloat16'),
    ('--model-dtype double', '--model-dtype double', 'bfloat16'),
    ('--amp --model-dtype bfloat16', '--amp', '--model-dtype bfloat16'),
    ('--resume nowhere.pth', '--resume nowhere.pth'),
    ('--initial-checkpoint nowhere.pth', '--initial-checkpoint nowhere.pth'),
    ('--batch-size 0', '--batch-size 0'),
    ('--checkpoint-hist 0', '--checkpoint-hist 0'),
    *(
        (f'--naflex-loader {other}', '--naflex-loader', other)
        for other in (
            '--train-img-sizes 32',
            '--use-multi-epochs-loader',
            '--aug-splits 2',
            '--aug-repeats 2.0',
            '--torchscript',
            '--save-images',
            '--dataset wds/x',
            '--kd-model-name resnet18',
        )
    ),
    ('--aa randd-m9', '--aa randd-m9', 'rand-m9-mstd0.5'),
    ('--aa rand-x9', '--aa rand-x9', 'rand-m9-mstd0.5'),
    ('--aa augmix-q9', '--aa augmix-q9', 'augmix-m5-w4'),
    ('--num-classes 0', '--num-classes 0'),
    ('--resume auto', '--resume auto', '--experiment'),
    ('--stop-epoch 0', '--stop-epoch 0'),
    ('--save-epochs 1 0', '--save-epochs', '0'),
    ('--lr-decay-fn linear', '--lr-decay-fn linear', '--sched cosine', 'wsd'),
    ('--sched wsd --lr-stable-timescale 5', '--lr-stable-timescale 5', '--sched wsd'),
    ('--sched rsqrt --lr-stable-timescale 0', '--lr-stable-timescale 0'),
    ('--sched rsqrt --warmup-epochs 0 --decay-epochs 3', '--sched rsqrt', '--lr-stable-timescale'),
    ('--sched wsd --epochs 20', '--sched wsd', '15 epochs', '--decay-epochs 90'),
    ('--sched plateau --sched-on-updates', '--sched plateau', '--sched-on-updates'),
    ('--task multilabel', '--task multilabel', 'image folder', 'hfds'),
    ('--task multilabel --dataset torch/cifar10', '--task multilabel', 'torch/cifar10'),
    ('--target-format multihot', '--target-format multihot', '--task multilabel'),
    ('--target-key a,b', '--target-key a,b', '--task multilabel'),
    (f'{MULTI} --target-key a,b --target-format multihot', '--target-key a,b', '--target-format multihot'),
    (f'{MULTI} --multilabel-threshold 1', '--multilabel-threshold 1.0'),
    (f'{MULTI} --kd-model-name resnet18', '--kd-model-name resnet18', '--task multilabel'),
    ('--bce-loss --loss asl', '--bce-loss', '--loss asl'),
    ('--jsd-loss --aug-splits 2 --loss ce', '--jsd-loss', '--loss ce'),
    ('--loss jsd', '--loss jsd', '--aug-splits'),
    (f'{MULTI} --loss ce', '--loss ce', '--task multilabel', 'bce'),
    ('--loss zlpr', '--loss zlpr', '--task multilabel'),
    ('--loss-class-weight 2', '--loss-class-weight 2', '--loss bce'),
    ('--loss asl --loss-pos-weight 2', '--loss-pos-weight 2', '--loss bce'),
    ('--bce-loss --bce-pos-weight 2 --loss-pos-weight 2', '--loss-pos-weight 2', '--bce-pos-weight 2.0'),
    ('--bce-loss --loss-pos-weight neg_pos', '--loss-pos-weight neg_pos', '--class-stats'),
    ('--bce-loss --num-classes 3 --loss-class-weight 1,2', '--loss-class-weight 1,2', '3 classes'),
    (f'{MULTI} --loss db', '--loss db', '--class-stats'),
    ('--loss bce --poly-gamma 2', '--poly-gamma 2.0', '--loss poly'),
    ('--loss poly --poly-gamma 2', '--loss poly', 'Poly gamma'),
    ('--loss asl --mixup 0.2', '--loss asl', '--mixup'),
    (f'{MULTI} --smoothing 0 --loss twoway --cutmix 1', '--loss twoway', '--cutmix'),
    (f'{MULTI} --loss zlpr --smoothing 0.1', '--loss zlpr', '--smoothing 0.1'),
    ('--kd-pretrained-path x.pth', '--kd-pretrained-path x.pth'),
    ('--kd-model-name resnet18 --kd-loss-type mse', '--kd-loss-type mse', 'kl'),
    ('--aug-splits 3 --mixup 0.2 --no-prefetcher', '--mixup', '--aug-splits 3'),
    ('--aug-splits 3 --resplit --reprob 0.5 --no-prefetcher', '--resplit', '--no-prefetcher'),
    ('--sync-bn --split-bn --aug-splits 3', '--sync-bn', '--split-bn'),
    ('--log-interval 0', '--log-interval 0'),
    ('--val-interval 0', '--val-interval 0'),
    ('--epochs 0', '--epochs 0'),
    ('--lr-base-size 0', '--lr-base-size 0'),
    ('--start-epoch -1', '--start-epoch -1'),
    ('--smoothing 2', '--smoothing 2'),
    ('--mixup-prob 2', '--mixup-prob 2'),
    ('--reprob 2', '--reprob 2'),
    ('--recount 0', '--recount 0'),
    ('--scale 0.5', '--scale', 'low and its high end'),
    ('--cutmix-minmax 0.9 0.2', '--cutmix-minmax', 'low and its high end'),
    ('--interpolation garbage', '--interpolation garbage', 'bicubic'),
    ('--train-interpolation garbage', '--train-interpolation garbage', 'random'),
    ('--worker-seeding some', '--worker-seeding some', 'part'),
    ('--in-chans 2', '--in-chans 2', '--input-img-mode'),
    ('--tta 3', '--tta 3', '--validation-batch-size'),
    ('--mixup 0.2 --train-img-sizes 32 48 --train-batch-sizes 8 5', '--train-batch-sizes 5', 'even'),
    ('--device banana', '--device banana', '--device cpu'),
    ('--pretrained-path nowhere.pth', '--pretrained-path nowhere.pth'),
    ('--train-img-sizes 32 --use-multi-epochs-loader', '--train-img-sizes', '--use-multi-epochs-loader'),
    ('--aug-splits 1', '--aug-splits 1'),
    ('--aug-splits -2', '--aug-splits -2'),
    ('--jsd-loss', '--jsd-loss', '--aug-splits'),
    ('--split-bn', '--split-bn', '--aug-splits', '--resplit'),
    ('--aug-splits 2 --no-aug', '--aug-splits 2', '--no-aug'),
    ('--aug-splits 2 --train-img-sizes 32', '--aug-splits 2', '--train-img-sizes'),
    ('--mixup 0.2 --aug-splits 2', '--mixup', '--aug-splits 2'),
    ('--cutmix-minmax 0.2 0.8 --aug-splits 2', '--cutmix-minmax', '--aug-splits 2'),
    ('--mixup 0.2 -b 7', '--mixup', '--batch-size 7'),
    ('--cutmix 1 -b 7', '--cutmix', '--batch-size 7'),
]


def parse(line=''):
    return create_parser().parse_args(line.split())


def untaken(args):
    """Options as they are prepared where nothing of ours is on."""
    return argparse.Namespace(**vars(args), taken_over=argparse.Namespace())


def on_cpu(line=''):
    return parse(line if '--device' in line else f'{line} --device cpu')


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)


@pytest.mark.parametrize('line, named', [(line, named) for line, *named in OURS])
def test_refusal_is_one_sentence(no_cuda, line, named):
    with pytest.raises(ValueError) as refused:
        prepare(on_cpu(line))
    says(str(refused.value), *named)


@pytest.mark.parametrize('line, named', [(line, named) for line, *named in STOCK])
def test_refusal_of_stock_is_one_sentence(no_cuda, line, named):
    with pytest.raises(ValueError) as refused:
        check_stock(prepare(on_cpu(line)))
    says(str(refused.value), *named)


@pytest.mark.parametrize(
    'line',
    [
        '',
        '--keep-cut',
        '--keep-cut --keep-tau none --keep-size 1 --keep-prob 0.01',
        '--keep-cut --keep-tau 0',
        '--keep-cut --keep-tau 1 --keep-saliency low --keep-low-scale 1',
        '--cutout',
        '--cutout 1',
        '--keep-cut --keep-windows overflow --keep-tau none',
        '--keep-cut cutmix --keep-windows overflow --mixup 0.2',
        '--keep-cut cutmix --cutmix-minmax 0.2 0.8 --keep-windows inside',
        '--keep-cut erase --reprob 0.3',
        '--keep-cut erase --keep-prob 0.3',
        '--keep-cut --reprob 0.3 --keep-prob 0.3',
        '--keep-cut --mixup 0.2 --cutmix 1',
        '--train-crop-mode rkrc',
        '--train-crop-mode pad4 --keep-cut',
        '--train-crop-mode pad4 --no-aug --train-img-sizes 32',
        '--keep-paste --aa v0',
        '--keep-paste --aa rand-m9 --keep-paste-size 6 --keep-cut --keep-size 8 --keep-tau 0.8',
        '--keep-paste --aa rand-m9 --keep-size 8 --keep-cut erase --reprob 0.3',
        '--keep-paste --aa 3a --cutout --mixup 0.2 --no-prefetcher',
        '--keep-paste --aa augmix-m5-w2 --keep-saliency low --keep-low-scale 0.25 --keep-prob 0.5 --reprob 0.3',
        '--joint-occlusion',
        '--joint-occlusion cutout --occlusion-holes 1 --occlusion-size 56 --mixup 0.2 --keep-cut',
        '--joint-occlusion saliency --occlusion-layer layer1 --occlusion-jitter 0',
        '--joint-occlusion none',
        '--refine-epochs 2 --sched plateau --refine-lr 0.01',
        '--refine-epochs 2 --refine-fade 1 --mixup 0.2',
        '--refine-epochs 2 --cutmix 1 --mixup-mode half',
        '--risk-samples 0',
        '--joint-occlusion --occlusion-only --occlusion-keep-image 0.5',
        '--augment-copies 2 --cutmix 1 --keep-cut',
    ],
)
def test_prepare_accepts(line):
    args = on_cpu(line)
    before = copy.deepcopy(args)
    prepared = prepare(args)
    assert args == before and prepared is not args
    assert prepare(prepared) == prepared


@pytest.mark.parametrize(
    'line',
    [
        '',
        '--model resnet50.a1_in1k',
        '--model hf-hub:timm/resnet50',
        '--model hf_hub:timm/resnet50',
        '--model local-dir:/somewhere',
        '--opt lookahead_adamw',
        '--opt AdamW',
        '--sched none',
        '--remode CONST',
        '--aug-splits 3 --jsd-loss --split-bn',
        '--resplit --split-bn',
        '-b 7',
        '--amp --model-dtype float32',
        '--model-dtype bfloat16',
        '--amp --amp-dtype bfloat16',
    ],
)
def test_check_stock_accepts(line):
    check_stock(prepare(on_cpu(line)))


def test_empty_names_leave_the_choice_to_timm():
    args = on_cpu()
    args.dist_bn, args.remode, args.clip_mode, args.train_crop_mode = '', '', None, ''
    check_stock(prepare(args))
    assert prepare(args) == untaken(args)


def test_existing_files_pass(tmp_path):
    path = tmp_path / 'last.pth.tar'
    path.write_bytes(b'')
    check_stock(prepare(on_cpu(f'--resume {path} --initial-checkpoint {path}')))


def test_a_folder_is_told_from_what_is_missing(tmp_path):
    said = []
    for name in ('', 'last.pth.tar'):
        if name:
            (tmp_path / name).write_bytes(b'')
        with pytest.raises(ValueError) as refused:
            check_stock(prepare(on_cpu(f'--resume {tmp_path}')))
        said.append(str(refused.value))
    assert said == [
        f'--resume {tmp_path} is a folder: give a checkpoint file in it.',
        f'--resume {tmp_path} is a folder: give {tmp_path}/last.pth.tar.',
    ]


def test_validation_needs_no_model_of_that_name(no_cuda):
    args = complete_validation(on_cpu())
    args.model = 'resnet*'
    check_validate(args)
    args.amp_dtype = 'float32'
    with pytest.raises(ValueError, match='--amp-dtype float32'):
        check_validate(args)


def test_nothing_changes_without_our_flags():
    for line in ('', '--reprob 0.3 --mixup 0.2 --aug-splits 3 --train-crop-mode rkrr', '--naflex-loader'):
        args = parse(line)
        prepared = prepare(args)
        assert prepared == untaken(args)


def test_erase_stands_the_eraser_down():
    prepared = prepare(parse('--keep-cut erase --reprob 0.3'))
    assert prepared.reprob == 0 and prepared.taken_over == argparse.Namespace(reprob=0.3)
    assert prepare(parse('--keep-cut --reprob 0.3')).reprob == 0.3
    assert prepare(parse('--keep-cut erase')).taken_over.reprob == 0


def test_paste_stands_eraser_and_mixers_down():
    prepared = prepare(parse('--keep-paste --aa rand-m9 --reprob 0.3 --mixup 0.2'))
    assert (prepared.reprob, prepared.mixup, prepared.cutmix) == (0, 0, 0)
    assert (prepared.taken_over.reprob, prepared.taken_over.mixup) == (0.3, 0.2)


@pytest.mark.parametrize(
    'line, moves',
    [
        ('--refine-epochs 2', False),
        ('--refine-epochs 2 --refine-fade 1', True),
        ('--augment-copies 2', True),
        ('--joint-occlusion', True),
        ('--risk-samples 8', False),
        ('--augment-copies 1', False),
    ],
)
def test_mixing_moves_to_the_device_where_it_must(line, moves):
    prepared = prepare(parse(f'{line} --mixup 0.2'))
    assert (prepared.mixup == 0) == moves == hasattr(prepared.taken_over, 'mixup')


def test_pad4_stands_the_crop_down():
    prepared = prepare(parse('--train-crop-mode pad4'))
    assert prepared.train_crop_mode is None and prepared.taken_over.train_crop_mode == 'pad4'
    untouched = parse('--train-crop-mode pad4 --no-aug')
    assert prepare(untouched) == untaken(untouched)


def test_prepared_arguments_can_be_changed_and_prepared_again():
    prepared = prepare(parse('--keep-cut erase --reprob 0.3'))
    prepared.keep_cut = None
    assert prepare(prepared) == untaken(parse('--reprob 0.3'))
    prepared.keep_cut, prepared.keep_prob = 'erase', 0.5
    with pytest.raises(ValueError, match='--reprob 0.3'):
        prepare(prepared)


def test_prepared_arguments_live_in_checkpoints(tmp_path):
    prepared = prepare(parse('--keep-cut erase --reprob 0.3 --train-crop-mode pad4 --keep-tau none'))
    torch.save({'args': prepared}, tmp_path / 'last.pth.tar')
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / 'last.pth.tar', weights_only=True)['args'] == prepared


def test_arguments_of_another_script():
    bare = prepare(argparse.Namespace(lr=0.1))
    assert bare.lr == 0.1 and bare.mixup_prob == 1.0 and bare.keep_cut is None
    # A plain YAML `keep_cut: true`, as a script without our parser hands it on.
    loaded = argparse.Namespace(**yaml.safe_load('{keep_cut: true, cutout: false, reprob: 0.2}'))
    prepared = prepare(loaded)
    assert (prepared.keep_cut, prepared.cutout, prepared.reprob) == ('cutout', None, 0.2)
    assert prepare(argparse.Namespace(cutout=True)).cutout == 0
    for values, flag in (
        ({'keep_cut': 'cutmax'}, '--keep-cut.*cutmax'),
        ({'keep_saliency': 'lo'}, '--keep-saliency.*lo'),
        ({'keep_size': 1.5}, '--keep-size.*1.5'),
        ({'cutout': 1.5}, '--cutout.*1.5'),
    ):
        with pytest.raises(ValueError, match=flag):
            prepare(argparse.Namespace(**values))


def test_stock_parser_alone():
    args = create_train_parser().parse_args(['--device', 'cpu'])
    prepared = prepare(args)
    assert vars(args).items() <= vars(prepared).items()
    check_stock(prepared)
