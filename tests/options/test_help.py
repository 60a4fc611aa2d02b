"""What a newcomer reads first: help, and the sentence about a mistyped flag."""

import pytest

import validate
from keepaug import demo, options, plot, preview
from keepaug.export import command as export
from keepaug.study import flags as study


def test_ours_come_first():
    titles = [group.title for group in options.create_parser()._action_groups[2:]]
    ours = titles.index('dataset')  # the first of stock's
    assert any('keep-cut' in title.lower() for title in titles[:ours]) and 'this script' in titles[:ours]
    assert not any('keep-cut' in title.lower() for title in titles[ours:])
    assert preview.create_parser()._action_groups[2].title == 'preview'
    assert validate.parser._action_groups[-1].title != 'this script'


@pytest.mark.parametrize(
    'create_parser',
    [options.create_parser, lambda: validate.parser, preview.create_parser, export.create_parser, study.create_parser]
    + [demo.create_parser],
)
def test_help_ends_with_an_example(create_parser):
    assert 'xample: ' in create_parser().format_help()[-600:]


@pytest.mark.parametrize(
    'typed, nearest', [('--kep-cut', '--keep-cut'), ('--epoch-s=3', '--epochs'), ('--keep-tauu', '--keep-tau')]
)
def test_a_mistyped_flag_gets_the_nearest(typed, nearest, capsys):
    with pytest.raises(SystemExit) as ended:
        options.create_parser().parse_args(['data', typed])
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and said.endswith(f'is {nearest}')


def test_what_resembles_no_flag_stays_as_argparse_says_it(capsys):
    with pytest.raises(SystemExit):
        options.create_parser().parse_args(['data', '--xyzzyqq', 'word'])
    assert capsys.readouterr().err.splitlines()[-1].endswith('unrecognized arguments: --xyzzyqq word')


def test_plot_has_an_example(capsys):
    with pytest.raises(SystemExit):
        plot.main(['--help'])
    assert 'example: ' in capsys.readouterr().out
