"""What a newcomer reads first: help, and the sentence about a mistyped flag."""

import shutil
import subprocess

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


PARSERS = {
    'train': options.create_parser,
    'validate': lambda: validate.parser,
    'preview': preview.create_parser,
    'export': export.create_parser,
    'plot': plot.create_parser,
    'study': study.create_parser,
    'demo': demo.create_parser,
}


@pytest.mark.parametrize('name', PARSERS)
def test_help_ends_with_an_example(name):
    assert 'xample: ' in PARSERS[name]().format_help()[-600:]


@pytest.mark.parametrize('name', ['train', 'validate', 'preview'])
def test_flags_in_help_are_whole(name, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    lines = PARSERS[name]().format_help().splitlines()
    assert max(map(len, lines)) < 80 and not [line for line in lines if line.endswith('-')]


# What bash offers behind the first letters of a flag, as its own completion asks for it; zsh only reads the file.
ASK = {
    'bash': 'source {file}; COMP_WORDS=({command} {typed}) COMP_CWORD=1 COMP_LINE="{command} {typed}"; '
    '$(complete -p {command} | sed "s/.*-F \\([^ ]*\\).*/\\1/") {command} {typed}; echo "${{COMPREPLY[@]}}"',
    'zsh': 'fpath=({folder} $fpath); autoload -Uz +X {file.name} && echo {flag}',
}


@pytest.mark.parametrize('shell', ASK)
@pytest.mark.parametrize(
    'name, typed, flag',
    [('train', '--keep-c', '--keep-cut'), ('validate', '--evalu', '--evaluate'), ('export', 'detec', 'detectron2')]
    + [('preview', '--preview-i', '--preview-images'), ('study', '--slo', '--slots'), ('plot', '--out', '--output')],
)
def test_shells_complete_flags(shell, name, typed, flag, tmp_path):
    """With what shtab writes, as docs/installing.md says."""
    shtab = pytest.importorskip('shtab')
    if not shutil.which(shell):
        pytest.skip(f'needs {shell}')
    parser, file = PARSERS[name](), tmp_path / f'_keepaug-{name}'
    parser.prog = f'keepaug-{name}'
    file.write_text(shtab.complete(parser, shell))
    words = ASK[shell].format(file=file, folder=tmp_path, command=parser.prog, typed=typed, flag=flag)
    said = subprocess.run([shell, '-c', words], capture_output=True, text=True, timeout=60)
    assert flag in said.stdout.split(), said.stderr


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
