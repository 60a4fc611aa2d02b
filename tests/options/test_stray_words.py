"""Words that nobody would read, and values that mean nothing, are told in a sentence before anything is built."""

import shlex

import pytest

from keepaug.options import create_parser, parse_args, parse_options, prepare
from keepaug.study.flags import create_parser as study_parser
from tests.options.test_any_flags import PREVIEW, TRAIN, VALIDATE, answer, preview_flags, train_flags, validate_flags
from tests.sentences import says

TRAINING = [
    ('--data-dir / --cutout 1.5', '1.5', '--cutout'),
    ('--data-dir / --cutout 8px', '8px', '--cutout'),
    ('--data-dir / --early-exit banana', 'banana', '--data-dir /'),
    ('/ --keep-cut ersae', 'ersae', '--keep-cut', 'erase'),
    ('--keep-cut ersae /', 'ersae', '--keep-cut', 'erase'),
    ('--cutout 8px /', '8px', '--cutout'),
    ('--dataset keepaug/cluttered-digits --keep-cut true', 'true', '--keep-cut', 'erase'),
    ('--dataset keepaug/cluttered-digits --manifold-mixup 0,x', '0,x', '--manifold-mixup'),
    ("--data-dir / --keep-cut ''", "''", '--keep-cut', 'erase'),
    ("--keep-cut ''", "''", '--keep-cut', 'erase'),
    ('--data-dir / \u2014keep-cut', '\u2014keep-cut', 'write --keep-cut'),
    ('--data-dir / \u2013b 3', '\u2013b', 'write -b'),
    ('--input-size 40 30 3', '--input-size 40 30 3', '--input-size 3 40 30'),
    ('--input-size 3 40', '--input-size', '3 values'),
    ('--mean', '--mean', 'a value'),
    ('--seed', '--seed', 'a value'),
    ('--device gpu --check', '--device gpu', 'cuda'),
    ('--device meta --check', '--device meta', '--device cpu'),
    ('--resume atuo', '--resume atuo', 'auto'),
    ('-c cifar10', '--config cifar10', 'cifar10/base'),
    ('--model=', "--model ''", 'resnet50'),
    ('--gp=', "--gp ''", 'avg'),
    ('--opt adamw --opt-betas 0.9', '--opt-betas 0.9', '--opt adamw'),
    ('--opt adan --opt-betas 0.9 0.9', '--opt-betas 0.9 0.9', 'must be 3'),
    ('--opt adamw --opt-kwargs banana=1', '--opt adamw', 'banana=1'),
    ('--opt-kwargs banana', '--opt-kwargs', 'KEY=VALUE'),
    ('--sched step --decay-epochs 0', '--decay-epochs', 'above 0'),
    ('--sched poly --lr-k-decay 1e9', '--sched poly', 'learning rate', 'epoch 5'),
    ('--epochs 2 --warmup-epochs 0 --stop-epoch 3', '--stop-epoch 3', '2 epochs'),
    ('--wandb-resume-id abc', '--wandb-resume-id abc', '--resume'),
    ('--lr-base-scale cubic', '--lr-base-scale cubic', 'linear'),
    ('--device meta', '--device meta', '--device cpu'),
    ('--crop-pct 1e-9', '--crop-pct', '1e-09'),
    ('--drop-path 2', '--drop-path', '2.0'),
    ('--seed -1', '--seed', '-1'),
    ('-b 99999999999', '--batch-size', '99999999999'),
    ('--mean 123 116 103', '--mean 123.0 116.0 103.0', '255'),
    ('--std 58 57 57', '--std 58.0 57.0 57.0', '255'),
    ('--in-chans 3 --mean 0.1 0.2', '--mean 0.1 0.2', '3 channels'),
    ('--in-chans 1 --input-size 3 32 32', '--in-chans 1', '--input-size 3 32 32'),
    ('--joint-occlusion --occlusion-grid 99999999', '--occlusion-grid', '99999999'),
    ('--joint-occlusion --img-size 32 --occlusion-grid 33', '--occlusion-grid', '33', 'at most 32'),
    ('--joint-occlusion cutout --img-size 32 --occlusion-size 33', '--occlusion-size', '33', 'at most 32'),
    ('--joint-occlusion cutout --occlusion-holes 99999999', '--occlusion-holes', '99999999'),
    ('--joint-occlusion --occlusion-keep-image 1', '--occlusion-keep-image', '1.0'),
    ('--attentive-cutmix --attentive-grid 33 --img-size 32', '--attentive-grid', '33', 'at most 32'),
    ('--augment-copies 99999999', '--augment-copies', '99999999'),
    ('--grid-mask --grid-mask-keep 0', '--grid-mask-keep', '0.0'),
    ('--grid-mask --grid-mask-keep 1', '--grid-mask-keep', '1.0'),
    ('--grid-mask --grid-mask-prob 0', '--grid-mask-prob', '0.0'),
    ('--keep-cut --keep-prob 0', '--keep-prob', '0.0'),
    ('--keep-cut --keep-low-scale 0.01', '--keep-low-scale', '0.01'),
    ('--keep-cut --reprob nan', '--reprob', 'nan'),
    ('--keep-paste --aa rand-m9 --reprob 2', '--reprob', '2.0'),
    ('--keep-cut cutmix --cutmix 0', '--cutmix 0', '--keep-cut cutmix'),
    ('--cutmix-variant one-hot --cutmix 0', '--cutmix 0', '--cutmix-variant one-hot'),
    ('--keep-cut erase --reprob 0', '--reprob 0', '--keep-cut erase'),
    ('--feature-cutmix --cutmix 0', '--cutmix 0', '--feature-cutmix'),
    ('--manifold-mixup 0,1 --mixup 0', '--mixup 0', '--manifold-mixup 0,1'),
]
VALIDATION = [
    ('--data-dir / banana', 'banana', '--data-dir /'),
    ('--model= --checkpoint x.pth', "--model ''", 'resnet50'),
    ('--log-freq 0', '--log-freq', 'at least 1'),
    ('--crop-border-pixels 9999', '--crop-border-pixels', '9999'),
    ('--crop-mode middle', '--crop-mode middle', 'center'),
    ('--results-format xml', '--results-format xml', 'csv or json'),
    ('--device meta', '--device meta', '--device cpu'),
    ('--model-kwargs foo', '--model-kwargs', 'KEY=VALUE'),
    ('--num-gpu 99', '--num-gpu 99'),
    ('-b 99999999999', '--batch-size', '99999999999'),
    ('--seed 4294967296', '--seed', '4294967296'),
    ('--gp=', "--gp ''", 'avg'),
]


@pytest.mark.parametrize('line, named', [(line, named) for line, *named in TRAINING])
def test_training(line, named):
    says(answer(train_flags, shlex.split(line)), *named)


@pytest.mark.parametrize('line, named', [(line, named) for line, *named in VALIDATION])
def test_validation(line, named):
    says(answer(validate_flags, line.split()), *named)


def test_preview():
    says(answer(preview_flags, ['--preview-images', '0']), '--preview-images', '0')


@pytest.mark.parametrize(
    'line',
    [
        '--data-dir / /',
        '--keep-cut cutmix',
        '--keep-cut cutmix --cutmix 0 --cutmix-minmax 0.2 0.8',
        '--cutmix 0',
        '--keep-cut erase --reprob 0 --keep-prob 0.5',
        '--feature-cutmix --mixup 0',
        '--local-rank=0',
        '--experiment \u2013x --keep-cut',
        '--local_rank=0',
        '--opt sgd --opt-betas 0.9',
        '--epochs 2 --refine-epochs 1 --warmup-epochs 0 --stop-epoch 3',
        '--model-kwargs depths=(1,2) path=/a=b',
        '--mean 0.5 --std 1',
        '--sched wsd --sched-on-updates --decay-epochs 0.5',
        '--sched multistep --sched-on-updates --decay-milestones 1 2',
    ],
)
def test_what_can_be_run(line):
    assert answer(train_flags, line.split()) == ''


def test_launchers_may_write_the_rank_either_way():
    for parser in (TRAIN, PREVIEW, VALIDATE):
        for flag in ('--local-rank=3', '--local_rank=3', '--local_ra=3'):
            assert parser.parse_args([flag]).local_rank == 3


def test_a_recorded_zero_is_nobody_s_choice(tmp_path):
    """args.yaml names every option, so what stands there at its default was not typed."""
    _, text = parse_args(TRAIN, ['--keep-cut', 'cutmix'])
    (tmp_path / 'args.yaml').write_text(text)
    assert 'cutmix: 0.0' in text
    prepared = prepare(parse_options(TRAIN, ['-c', str(tmp_path / 'args.yaml')]))
    assert prepared.keep_cut == 'cutmix' and 'typed' not in vars(prepared)


def test_only_where_a_folder_is_read_a_word_too_many_is_told_so(capsys):
    for parser, reads in ((create_parser(), True), (study_parser(), False)):
        with pytest.raises(SystemExit):
            parser.parse_args(['/', '/tmp'])
        said = capsys.readouterr().err
        assert 'unrecognized arguments: /tmp' in said and ('one folder of data is read' in said) is reads
