"""A command line that stock understands means the same with our flags on the parser; no flag of ours takes the path."""

import copy
import sys

import pytest

from keepaug.options import add_arguments, create_parser, create_train_parser
from keepaug.options.argv import stock_first

STOCK = tuple(create_train_parser()._option_string_actions)
LATER = {'--joint-later': None, '--exact-later': 0, '--cutmix-shape': None, '--epoch': 0, '--resume-more': None}


def crowd(parser):
    """Flags that are yet to come, chosen to collide with stock's."""
    for flag, nargs in LATER.items():
        parser.add_argument(flag, **({'action': 'store_true'} if nargs == 0 else {'nargs': '?', 'const': 'const'}))
    return parser


@pytest.fixture(scope='module')
def crowded():
    return crowd(create_parser())


def prefixes():
    for flag in STOCK:
        for end in range(3, len(flag) + 1):
            if flag.startswith('--'):
                yield flag[:end], [other for other in STOCK if other.startswith(flag[:end])]


def test_unique_prefixes_stay_stocks(crowded):
    rewrite = crowded.parse_known_args.rewrite
    unique = {prefix: flag for prefix, (flag, *others) in prefixes() if not others}
    assert len(unique) > 1000
    for prefix, flag in unique.items():
        if prefix in ('--check', '--epoch', '--task'):
            continue  # these are newer flags in full
        assert rewrite([prefix]) == [flag]
        assert rewrite([f'{prefix}=3']) == [f'{flag}=3']


def test_every_stock_flag_parses_from_its_shortest_unique_prefix(crowded):
    stock = create_train_parser()
    shortest = {}
    for prefix, flags in prefixes():
        if len(flags) == 1 and prefix not in ('--check', '--epoch'):
            shortest.setdefault(flags[0], prefix)
    for flag, prefix in shortest.items():
        action = stock._option_string_actions[flag]
        if action.dest == 'help':
            continue
        value = action.choices[0] if action.choices else 'a=1' if action.default == {} else '2'
        words = [] if action.nargs == 0 else [value] * (action.nargs if isinstance(action.nargs, int) else 1)
        expected = vars(stock.parse_args([flag, *words]))
        assert expected.items() <= vars(crowded.parse_args([prefix, *words])).items(), prefix


def test_a_newer_flag_yields_by_its_value():
    parser = create_parser()
    older, newer = parser.parse_args(['--task', '0.5']), parser.parse_args(['--task', 'multilabel'])
    assert (older.task, older.task_loss_weight) == ('classification', 0.5)
    assert (newer.task, newer.task_loss_weight) == ('multilabel', None)


def test_ambiguous_prefixes_stay_ambiguous(crowded, capsys):
    for prefix in ('--cutm', '--lr-', '--train-', '--keep'):
        with pytest.raises(SystemExit):
            crowded.parse_args([prefix, '1'])
        assert f'ambiguous option: {prefix}' in capsys.readouterr().err


@pytest.mark.parametrize(
    'argv, check, hist',
    [
        (['--check'], True, 10),
        (['--check', '5'], False, 5),
        (['--check=5'], False, 5),
        (['--check', '/data'], True, 10),
        (['--check', '--amp'], True, 10),
        (['--checkp', '5'], False, 5),
        (['--chec', '5'], False, 5),
        (['--check', '--checkpoint-hist', '5'], True, 5),
    ],
)
def test_check_or_checkpoint_hist(argv, check, hist):
    args = create_parser().parse_args(argv)
    assert (args.check, args.checkpoint_hist) == (check, hist)
    assert args.data == ('/data' if '/data' in argv else None)


@pytest.mark.parametrize(
    'argv, keep_cut, cutout, data',
    [
        ('--keep-cut /data', 'cutout', None, '/data'),
        ('/data --keep-cut', 'cutout', None, '/data'),
        ('--keep-cut erase /data', 'erase', None, '/data'),
        ('--keep-cut=erase /data', 'erase', None, '/data'),
        ('--keep-cut --amp /data', 'cutout', None, '/data'),
        ('--keep-cut -- /data', 'cutout', None, '/data'),
        ('--keep-c /data', 'cutout', None, '/data'),
        ('--cutout 16 /data', None, 16, '/data'),
        ('--cutout=16 /data', None, 16, '/data'),
        ('--cutout /data', None, 0, '/data'),
        ('--cuto /data', None, 0, '/data'),
        ('--cutout -b 8 /data', None, 0, '/data'),
        ('--cutout -3 /data', None, -3, '/data'),
        ('--keep-cut --cutout /data', 'cutout', 0, '/data'),
        ('/data', None, None, '/data'),
        ('-- --keep-cut', None, None, '--keep-cut'),
        ('--amp -- --j', None, None, '--j'),
    ],
)
def test_optional_values_and_the_path(argv, keep_cut, cutout, data):
    args = create_parser().parse_args(argv.split())
    assert (args.keep_cut, args.cutout, args.data) == (keep_cut, cutout, data)


def test_keep_tau():
    parse = create_parser().parse_args
    assert (parse([]).keep_tau, parse(['--keep-tau', '.25']).keep_tau, parse(['--keep-tau', 'none']).keep_tau) == (
        0.6,
        0.25,
        None,
    )


@pytest.mark.parametrize(
    'argv, fault',
    [
        (['--keep-cut=foo'], "argument --keep-cut: invalid choice: 'foo'"),
        (['--cutout=foo'], '--cutout must be a whole number, got foo.'),
        (['--keep-tau', 'foo'], '--keep-tau must be a number or none to draw blindly, got foo.'),
        (['--feature-cutmix=foo'], '--feature-cutmix must be different stages, such as 0,1,2, got foo.'),
        (['--torchscript', '--torchcompile'], 'not allowed with argument'),
    ],
)
def test_argparse_still_refuses(argv, fault, capsys):
    with pytest.raises(SystemExit) as refused:
        create_parser().parse_args(argv)
    assert refused.value.code == 2 and fault in capsys.readouterr().err


def test_stock_flags_with_optional_values_are_as_greedy_as_ever():
    assert create_parser().parse_args(['--torchcompile', '/data']).torchcompile == '/data'


def test_another_persons_parser(monkeypatch):
    parser = create_train_parser()
    parser.add_argument('--joint', action='store_true')
    add_arguments(parser)
    args, rest = parser.parse_known_args(['--js', '--keep-cut', '/data', '--unheard-of'])
    assert (args.jsd_loss, args.keep_cut, args.data, rest) == (True, 'cutout', '/data', ['--unheard-of'])
    monkeypatch.setattr(sys, 'argv', ['train.py', '--cutout', '/data'])
    assert (parser.parse_args().cutout, parser.parse_args().data) == (0, '/data')


def test_another_script_may_pass_on_what_it_does_not_know(capsys):
    parser = create_train_parser()
    add_arguments(parser)
    words = ['/data', '--keep-cut', 'banana', 'split']
    args, rest = parser.parse_known_args(words)
    assert (args.keep_cut, args.data, rest) == ('cutout', '/data', ['banana', 'split'])
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert 'banana is neither a folder nor a value of --keep-cut' in capsys.readouterr().err


def test_no_abbreviations_where_the_parser_wants_none():
    parser = create_train_parser()
    parser.allow_abbrev = False
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--jsd'])
    assert parser.parse_args(['--keep-cut', '/data']).data == '/data'


def test_a_copy_reads_for_itself():
    parser = create_train_parser()
    add_arguments(parser)
    twin = copy.deepcopy(parser)
    twin.add_argument('--joint-later', action='store_true')
    assert twin.parse_known_args.parser is twin and stock_first(twin) is twin.parse_known_args
    assert twin.parse_args(['--j']).jsd_loss and hasattr(twin.parse_args([]), 'joint_later')
    assert not hasattr(parser.parse_args([]), 'joint_later')
