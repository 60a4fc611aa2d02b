"""The arguments that runs leave behind, ours, stock's and strange ones."""

import argparse

import pytest

from keepaug import prepare
from keepaug.options import create_parser
from keepaug.options.recorded import read_recorded, read_values


def parsed(flags: str) -> argparse.Namespace:
    return create_parser().parse_args(flags.split())


@pytest.mark.parametrize(
    'flags',
    [
        '',
        '--mixup 0.8 --cutmix 1 --aa rand-m9 --reprob 0.25 --color-jitter 0.3',
        '--keep-cut cutmix --cutmix 1',
        '--train-crop-mode pad4 --keep-cut --keep-tau none',
        '--augment-copies 2 --joint-occlusion cutout',
        '--scale 0.5 1',
    ],
)
def test_as_they_were_prepared(flags):
    """What a run stores are prepared arguments, where stock has stood down for ours."""
    run = prepare(parsed(flags))
    found = vars(read_recorded(dict(args=run), 'last.pth.tar'))
    assert found == vars(run)
    assert run.taken_over == prepare(create_parser().parse_args(flags.split())).taken_over


def test_keys_that_differ():
    """Stock knows none of ours, and has some that we lack."""
    found = read_values(dict(mixup=0.8, scale=(0.3, 1.0), aa=None, amp_impl='native', __class__=7))
    assert (found.mixup, found.scale, found.aa, found.keep_cut) == (0.8, [0.3, 1.0], None, None)
    assert found.reprob == parsed('').reprob and not hasattr(found, 'amp_impl') and type(found) is argparse.Namespace


@pytest.mark.parametrize(
    'wrong', [dict(mixup='much'), dict(batch_size=[1]), dict(scale=3), dict(keep_cut='all'), dict(cutout={'a': 1})]
)
def test_values_of_another_kind(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f'arguments in last.pth.tar: {name}'):
        read_recorded(dict(args=argparse.Namespace(**wrong)), 'last.pth.tar')


def test_the_file_of_a_teacher_is_not_opened(tmp_path):
    found = read_recorded(dict(args=argparse.Namespace(kd_pretrained_path=str(tmp_path))), 'last.pth.tar')
    assert found.kd_pretrained_path is None


def test_combinations_that_cannot_be():
    with pytest.raises(ValueError, match='--keep-cut and --cutout'):
        read_recorded(dict(args=dict(keep_cut='cutout', cutout=8)), 'last.pth.tar')


def test_what_nobody_knows_is_said(caplog, tmp_path):
    """A method from outside that is not imported would be left out of the replay without a word."""
    run = dict(keep_cut='cutout', sharpen=0.5, sharpen_kind='', stray=None, rank=0, class_to_idx={'a': 0})
    for _ in range(2):
        read_recorded(dict(args=argparse.Namespace(**run)), f'{tmp_path}/last.pth.tar')
    (message,) = caplog.messages
    assert (
        'sharpen 0.5' in message and 'stray' not in message and 'rank' not in message and 'Import the module' in message
    )


def test_where_they_are_looked_for(tmp_path):
    for name, value in (('named.yaml', 0.3), ('args.yaml', 0.2)):
        (tmp_path / name).write_text(f'mixup: {value}\n')
    path, held = str(tmp_path / 'last.pth.tar'), dict(args=argparse.Namespace(mixup=0.1))
    assert read_recorded(held, path, str(tmp_path / 'named.yaml')).mixup == 0.3
    assert read_recorded(held, path).mixup == 0.1
    assert read_recorded(dict(state_dict={}), path).mixup == 0.2
    for where in ('/nowhere/last.pth.tar', ''):
        with pytest.raises(ValueError, match='--risk-args'):
            read_recorded({}, where)
    with pytest.raises(ValueError, match='--risk-args .* cannot be read'):
        read_recorded(held, path, str(tmp_path / 'missing.yaml'))
