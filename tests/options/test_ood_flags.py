"""What the flags of ood, risk and spectrum refuse before any image is read."""

import argparse

import pytest

from keepaug.options import add_ours, check_validate, complete_validation, create_validate_parser

REFUSED = [
    ('ood --ood-data-dir /nowhere', '--ood-data-dir /nowhere', 'no folder'),
    ('ood --ood-data-dir name=/nowhere', '--ood-data-dir /nowhere', 'no folder'),
    ('ood --ood-data-dir uniform={tmp_path}', "'uniform'", 'choose a name'),
    ('ood --ood-data-dir ={tmp_path}', "''", 'choose a name'),
    ('ood --ood-data-dir a,b={tmp_path}', "'a,b'", 'choose a name'),
    ('ood --ood-data-dir a={tmp_path} a={tmp_path}', 'two folders the name a', 'another'),
    ('fgsm --ood-data-dir {tmp_path}', '--ood-data-dir', '--evaluate ood'),
    ('ood --odin-temperature 0', '--odin-temperature must be above 0', '0'),
    ('ood --odin-temperature nan', '--odin-temperature must be above 0', 'nan'),
    ('ood --odin-eps -0.1', '--odin-eps must be between 0 and 1', '-0.1'),
    ('ood --odin-eps nan', '--odin-eps must be between 0 and 1', 'nan'),
    ('fgsm --risk-args args.yaml', '--risk-args args.yaml', '--evaluate risk'),
    ('risk --early-exit --checkpoint x.pth', '--evaluate risk', '--early-exit'),
    ('ood risk --valid-labels labels.txt', '--evaluate risk', '--valid-labels'),
]


def parsed(flags: str) -> argparse.Namespace:
    parser = create_validate_parser()
    add_ours(parser)
    return complete_validation(parser.parse_args(['data', '--device', 'cpu', '--evaluate', *flags.split()]))


@pytest.mark.parametrize('flags,named', [(flags, named) for flags, *named in REFUSED])
def test_refused(flags, named, tmp_path):
    with pytest.raises(ValueError) as refusal:
        check_validate(parsed(flags.format(tmp_path=tmp_path)))
    assert all(part in str(refusal.value) for part in named) and str(refusal.value).count('\n') == 0


def test_accepted(tmp_path):
    check_validate(
        parsed(
            f'ood risk spectrum --ood-data-dir {tmp_path} {tmp_path} name={tmp_path} --odin-eps 0 --odin-temperature 1 '
            '--spectrum-class 3,0'
        )
    )


@pytest.mark.parametrize('text', ['-1', 'a', '0,', '1.5', ''])
def test_no_class(text, capsys):
    with pytest.raises(SystemExit) as leave:
        parsed(f'spectrum --spectrum-class={text}')
    assert leave.value.code == 2 and 'such as 0 or 0,3,7' in capsys.readouterr().err


def test_classes_once_each():
    assert parsed('spectrum --spectrum-class 3,0,3').spectrum_class == (3, 0)
