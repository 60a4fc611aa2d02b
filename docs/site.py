"""What mkdocs does beside the pages of docs/: README.md and its like become pages, files that pages name come along."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Files outside docs/ that are pages of the site, by the name of the page.
PAGES = {
    'index.md': 'README.md',
    'CONTRIBUTING.md': 'CONTRIBUTING.md',
    'CHANGELOG.md': 'CHANGELOG.md',
    'hparams/README.md': 'hparams/README.md',
}
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)')


def on_files(files: Files, config) -> Files:
    """Adds the pages from outside docs/, and the recipes and results that any page links to."""
    named = set()
    for page in [*PAGES.values(), *(f'docs/{file.src_uri}' for file in files.documentation_pages())]:
        named |= {target for target, _ in _targets(page, (ROOT / page).read_text(encoding='utf-8'))}
    for uri, source in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    for target in sorted(named - set(PAGES.values())):
        if not target.startswith('docs/') and (ROOT / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Lets links lead where the site has what they name; a folder, which it has not, is named without a link."""
    source = PAGES.get(page.file.src_uri, f'docs/{page.file.src_uri}')

    def replaced(link: re.Match) -> str:
        picture, text, target, anchor = link[1], link[2], link[3], link[4] or ''
        if '://' in target:
            return link[0]
        path = normpath(str(PurePosixPath(source).parent / target))
        if (ROOT / path).is_dir():
            return text
        return f'{picture}[{text}]({_relative(place_of(path), page.file.src_uri)}{anchor})'

    return _outside_code(markdown, lambda text: LINK.sub(replaced, text))


def place_of(path: str) -> str:
    """Where a file of the checkout stands in the site's sources."""
    pages = {source: uri for uri, source in PAGES.items()}
    return pages.get(path, path.removeprefix('docs/'))


def _targets(source: str, markdown: str):
    """Files that a page links to, as paths from the top of the checkout, and their anchors."""
    found = []
    _outside_code(markdown, lambda text: found.extend(LINK.findall(text)) or text)
    for _, _, target, anchor in found:
        if '://' not in target:
            yield normpath(str(PurePosixPath(source).parent / target)), anchor


def _outside_code(markdown: str, change) -> str:
    """The text with what stands outside of fenced blocks changed."""
    parts = re.split(r'(^```.*?^```\s*?$)', markdown, flags=re.DOTALL | re.MULTILINE)
    return ''.join(part if part.startswith('```') else change(part) for part in parts)


def _relative(target: str, page: str) -> str:
    up = '../' * page.count('/')
    return f'{up}{target}'
