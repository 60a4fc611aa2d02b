"""The documentation: links lead somewhere, commands are understood, the site has every page."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import keepaug
import train
import validate
from keepaug import options, preview
from keepaug.export import command as export
from keepaug.study import flags as study
from tests.browser import DESK, PHONE, find_faults

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'hparams/README.md')),
    *sorted((ROOT / 'docs').glob('*.md')),
]
FENCED = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page."""
    headings = re.findall(r'^#+ (.*)$', FENCED.sub('', page.read_text()), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=names)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', FENCED.sub('', page.read_text())):
        path, _, anchor = target.partition('#')
        if '://' in target:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def shell_commands() -> Iterator[tuple[Path, str]]:
    """Each command that a page shows, on one line."""
    for page in PAGES:
        for language, block in FENCED.findall(page.read_text()):
            if language == 'sh':
                for line in block.replace('\\\n', ' ').splitlines():
                    if line.strip() and not line.startswith('#'):
                        yield page, ' '.join(line.split())


# What is no command of ours, or stands in a loop of the shell, is for the reader's eyes.
OURS = re.compile(r'([A-Z_]+=\S+ )*(python (-m keepaug|\w*/?\w+\.py)|torchrun|\./distributed_train\.sh)')
COMMANDS = [
    pytest.param(line, id=f'{names(page)}: {line[:60]}')
    for page, line in shell_commands()
    if OURS.match(line) and '$' not in line and 'tools/train_net.py' not in line
]


@pytest.mark.parametrize('line', COMMANDS)
def test_commands_are_understood(line, monkeypatch):
    """The flags fit together, as far as that can be known without data."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    while re.match(r'[A-Z_]+=', words[0]):
        del words[0]
    if words[0] == 'torchrun':
        words = ['python', 'train.py', *words[words.index('keepaug.train') + 1 :]]
    if words[0] == './distributed_train.sh':
        assert words[1].isdecimal()
        words[:2] = ['python', 'train.py']
    script = ' '.join(words[1:3]) if words[1] == '-m' else words[1]
    flags = words[3:] if words[1] == '-m' else words[2:]
    if script == 'train.py':
        args, _ = train._parse_args([*flags, '--device', 'cpu'])
        args.resume = 'auto' if args.resume else ''  # a checkpoint that is not here
        options.check_stock(keepaug.prepare(args))
    elif script == '-m keepaug.preview':
        args, _ = options.parse_args(preview.create_parser(), [*flags, '--device', 'cpu'])
        options.check_stock(keepaug.prepare(args))
    elif script == 'validate.py':
        validate.parser.parse_args(flags)
    elif script == '-m keepaug.export':
        export.create_parser().parse_args(flags)
    elif script.startswith(('examples/', 'benchmarks/')):
        assert (ROOT / script).is_file()
    else:
        assert script == '-m keepaug.study'
        end = flags.index('--') if '--' in flags else len(flags)
        args = study.create_parser().parse_args(flags[:end])
        assert Path(args.file).is_file()
        train._parse_args(flags[end + 1 :])


def test_there_are_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize('page', PAGES, ids=names)
def test_python_blocks_are_python(page):
    for language, block in FENCED.findall(page.read_text()):
        if language == 'python':
            ast.parse(block)


def test_every_page_is_in_the_navigation():
    navigation = str(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav'])
    for page in (ROOT / 'docs').glob('*.md'):
        assert f"'{page.name}'" in navigation


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The site, built without a warning."""
    if importlib.util.find_spec('mkdocs') is None:
        pytest.skip('needs the extra docs')
    folder = tmp_path_factory.mktemp('docs') / 'site'
    subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', folder], cwd=ROOT, check=True
    )
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group('site')
def test_site_is_built(site):
    """Pages name each other, and nothing that a browser would fetch from elsewhere."""
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob('*.html')}
    assert {'index.html', 'api.html', 'methods.html', 'CONTRIBUTING.html'} <= set(pages)
    assert 'create_augment' in pages['api.html'] and 'input_saliency' in pages['api.html']
    assert (site / 'hparams' / 'papers' / 'keepaugment' / 'table1.yaml').is_file(), 'what a page links to comes along'
    for name, text in pages.items():
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?https?://', text), name


@pytest.mark.slow
@pytest.mark.xdist_group('site')
@pytest.mark.parametrize('width', [PHONE, DESK])
def test_site_in_a_browser(width, site, tmp_path):
    """No page tells an error, misses a file, or is wider than the screen; wide tables scroll."""
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob('*.html') if path.name != '404.html')
    assert find_faults(site, pages, width, tmp_path) == {}
