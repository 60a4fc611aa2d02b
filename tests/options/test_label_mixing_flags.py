"""The flags of the label mixers: what is refused, what stands down, and values from YAML."""

import argparse

import pytest

from keepaug.options import check_stock, create_parser, parse_args, prepare
from tests.sentences import says

REFUSED = [
    ('--attentive-cutmix --mixup 0.2', '--attentive-cutmix', 'and', '--mixup'),
    ('--attentive-cutmix --cutmix 1', '--attentive-cutmix', 'and', '--cutmix'),
    ('--attentive-cutmix --cutmix-minmax 0.2 0.8', '--attentive-cutmix', 'and', '--cutmix-minmax'),
    ('--attentive-cutmix --feature-cutmix', '--attentive-cutmix', 'and', '--feature-cutmix'),
    ('--attentive-cutmix --keep-cut cutmix', '--attentive-cutmix', 'and', '--keep-cut cutmix'),
    ('--cutmix-variant fixed --mixup 0.2', '--cutmix-variant', 'and', '--mixup'),
    ('--cutmix-variant one-hot --cutmix-minmax 0.2 0.8', '--cutmix-variant', 'and', '--cutmix-minmax'),
    ('--cutmix-variant fixed --manifold-mixup', '--cutmix-variant', 'and', '--manifold-mixup'),
    ('--feature-cutmix --mixup 0.2', '--feature-cutmix', 'and', '--mixup'),
    ('--feature-cutmix --manifold-mixup', '--feature-cutmix', 'and', '--manifold-mixup'),
    ('--manifold-mixup --cutmix 1', '--manifold-mixup', 'and', '--cutmix'),
    ('--manifold-mixup --keep-cut cutmix', '--manifold-mixup', 'and', '--keep-cut cutmix'),
    ('--feature-cutmix --naflex-loader', '--feature-cutmix', '--naflex-loader'),
    ('--attentive-cutmix --naflex-loader', '--attentive-cutmix', '--naflex-loader'),
    ('--cutmix-variant fixed --aug-splits 3', '--cutmix-variant', '--aug-splits 3'),
    ('--manifold-mixup --torchscript', '--manifold-mixup', '--torchscript'),
    ('--manifold-mixup --kd-model-name resnet18', '--manifold-mixup', '--kd-model-name resnet18'),
    ('--manifold-mixup --risk-samples 8', '--manifold-mixup', '--risk-samples 8'),
    ('--feature-cutmix --early-exit', '--feature-cutmix', '--early-exit'),
    ('--feature-cutmix --keep-cut --keep-saliency low-early', '--feature-cutmix', '--keep-saliency low-early'),
    ('--feature-cutmix --mixup-mode half', '--mixup-mode half', 'elem'),
    ('--attentive-cutmix 0', '--attentive-cutmix 0', 'at least 1'),
    ('--attentive-cutmix 50', '--attentive-cutmix 50', 'at most 49'),
    ('--attentive-cutmix 5 --attentive-grid 2', '--attentive-cutmix 5', 'at most 4'),
    ('--attentive-cutmix --attentive-grid 0', '--attentive-grid 0'),
    ('--attentive-cutmix --attentive-teacher-size 0', '--attentive-teacher-size 0'),
    ('--attentive-cutmix --attentive-teacher self --attentive-teacher-checkpoint a.pth', 'a.pth', 'self'),
    ('--attentive-cutmix --attentive-teacher-checkpoint nowhere.pth', '--attentive-teacher-checkpoint nowhere.pth'),
    ('--attentive-teacher self', '--attentive-teacher self', '--attentive-cutmix'),
    ('--attentive-teacher-size 64', '--attentive-teacher-size 64', '--attentive-cutmix'),
    ('--attentive-grid 4', '--attentive-grid 4', '--attentive-cutmix'),
    ('--cutmix-fixed-size 8', '--cutmix-fixed-size 8', '--cutmix-variant fixed'),
    ('--cutmix-variant one-hot --cutmix-fixed-size 8', '--cutmix-fixed-size 8', '--cutmix-variant fixed'),
    ('--cutmix-variant fixed --cutmix-fixed-size 0', '--cutmix-fixed-size 0'),
    # Read as the path of the data set, of which there is another one.
    ('--attentive-cutmix six --data-dir /data', 'six', '--attentive-cutmix'),
    ('--feature-cutmix 1,1 --data-dir /data', '1,1', '--feature-cutmix'),
    ('--manifold-mixup a,b --data-dir /data', 'a,b', '--manifold-mixup'),
    ('--cutmix-variant fixed --cutmix-fixed-size 40 --img-size 32', '--cutmix-fixed-size 40', 'at most 32'),
]


def parse(line: str = '') -> argparse.Namespace:
    return create_parser().parse_args(f'{line} --device cpu'.split())


@pytest.mark.parametrize('line, named', [(line, named) for line, *named in REFUSED])
def test_refusal_is_one_sentence(line, named):
    with pytest.raises(ValueError) as refused:
        prepare(parse(line))
    says(str(refused.value), *named)


@pytest.mark.parametrize('teacher', ['resnet5', 'timm/resnet50'])
def test_unknown_teacher(teacher):
    with pytest.raises(ValueError, match=f'--attentive-teacher {teacher}'):
        check_stock(prepare(parse(f'--attentive-cutmix --attentive-teacher {teacher}')))


@pytest.mark.parametrize(
    'line',
    [
        '--attentive-cutmix',
        '--attentive-cutmix 12 --attentive-teacher self -b 7',
        '--cutmix-variant fixed --cutmix 1',
        '--cutmix-variant scheduled --cutmix 0.5 --mixup-prob 0.5',
        '--feature-cutmix 0,1,2 --cutmix 0.5',
        '--manifold-mixup --mixup 2',
        '--attentive-cutmix --keep-cut --early-exit',
        '--feature-cutmix --cutout --mixup-mode elem',
    ],
)
def test_stock_stands_down(line):
    args = parse(line)
    prepared = prepare(args)
    assert (prepared.mixup, prepared.cutmix, prepared.cutmix_minmax) == (0, 0, None)
    assert (prepared.taken_over.mixup, prepared.taken_over.cutmix) == (args.mixup, args.cutmix)
    assert prepare(prepared) == prepared
    check_stock(prepared)


@pytest.mark.parametrize(
    'flag, const', [('--attentive-cutmix', 6), ('--feature-cutmix', 'all'), ('--manifold-mixup', 'all')]
)
def test_bare_flag_leaves_the_path_alone(flag, const):
    args = create_parser().parse_args([flag, '/data/1'])
    assert (getattr(args, flag.strip('-').replace('-', '_')), args.data) == (const, '/data/1')
    yaml = argparse.Namespace(**{**vars(args), flag.strip('-').replace('-', '_'): True})
    assert getattr(prepare(yaml), flag.strip('-').replace('-', '_')) == const


@pytest.mark.parametrize('stages', ['0,', 'a', '1,1', '-1', '1.5'])
def test_stages_that_are_none(stages, capsys):
    with pytest.raises(SystemExit):
        create_parser().parse_args([f'--feature-cutmix={stages}'])
    assert '--feature-cutmix' in capsys.readouterr().err


@pytest.mark.parametrize(
    'line',
    [
        'feature_cutmix: 0,1,2',
        'manifold_mixup: all',
        'attentive_cutmix: 12',
        'cutmix_variant: one-hot',
        'feature_cutmix: 1',
    ],
)
def test_values_from_yaml(line, tmp_path):
    config = tmp_path / 'config.yaml'
    config.write_text(line + '\n')
    name, value = line.split(': ')
    args, text = parse_args(create_parser(), ['--config', str(config)])
    assert str(getattr(args, name)) == value
    config.write_text(text)
    assert getattr(parse_args(create_parser(), ['--config', str(config)])[0], name) == getattr(args, name)
    prepare(args)
