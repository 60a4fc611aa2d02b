"""Looks at pages in headless Chromium, at the width of a given screen, and tells what went wrong."""

import json
import shutil
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PHONE, DESK = 390, 1280  # px
# Each page is shown in a frame of its own, because Chromium's window is never narrower than 500 px. What a page says on
# its console is heard from its first line on; a picture that fails, too.
HEARS = '<script>parent.hear(window)</script>'
LOOKS = """<!doctype html><link rel="icon" href="data:,"><body style="margin: 0"><script>
const found = {};
let faults, heard;
function hear(page) {
  heard = true;
  const tell = words => faults.push(words.join(' '));
  for (const kind of ['error', 'warn']) page.console[kind] = (...words) => tell([`console.${kind}:`, ...words]);
  page.addEventListener('error', e => tell([e.message || 'not loaded: ' + (e.target.src || e.target.href)]), true);
  page.addEventListener('unhandledrejection', e => tell(['not handled:', e.reason]));
}
function scrolls(node) {
  return node && (['auto', 'scroll'].includes(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
}
function look(page) {
  const root = page.document.documentElement, wide = root.scrollWidth - page.innerWidth;
  if (!heard) faults.push('not heard: the page has no <head>');
  if (page.innerWidth != WIDTH) faults.push(`shown at ${page.innerWidth} px`);
  if (wide > 0) faults.push(`${wide} px too wide`);
  for (const node of page.document.querySelectorAll('article *, main *, body > *')) {
    const box = node.getBoundingClientRect();
    if (box.width && box.right > WIDTH + 1 && box.left < WIDTH && !scrolls(node))
      faults.push(`<${node.localName} class="${node.className}"> ends at ${Math.round(box.right)} px`);
  }
  for (const picture of page.document.images)
    if (!picture.naturalWidth) faults.push(`not drawn: ${picture.src}`);
}
async function show(name) {
  faults = [], heard = false;
  const frame = document.createElement('iframe');
  frame.style = 'border: 0; width: WIDTHpx; height: 900px';
  document.body.replaceChildren(frame);
  await new Promise(done => { frame.onload = done; frame.src = name; });
  for (const picture of frame.contentDocument.images) picture.loading = 'eager';
  await Promise.allSettled([...frame.contentDocument.images].map(picture => picture.decode()));
  look(frame.contentWindow);
  found[name] = faults;
}
(async () => {
  try { for (const name of PAGES) await show(name); } catch (error) { found.error = [String(error)]; }
  fetch('/found', {method: 'POST', body: JSON.stringify(found)});
})();
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, lets its pages be heard, and takes what was found."""

    def do_GET(self) -> None:
        if self.path == '/':
            self._say(self.server.looks)
        elif self.path.endswith('.html') and (file := Path(self.translate_path(self.path))).is_file():
            self._say(file.read_text().replace('<head>', f'<head>{HEARS}', 1))
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self.server.found = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self._say('')
        self.server.done.set()

    def send_error(self, code: int, *words) -> None:
        self.server.missing.append(f'{code}: {self.path}')
        super().send_error(code, *words)

    def log_message(self, *_) -> None: ...

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.end_headers()
        self.wfile.write(text.encode())


def find_browser() -> str:
    """Chromium's command; skips the test where there is none."""
    found = [shutil.which(name) for name in ('chromium', 'chromium-browser', 'google-chrome')]
    if not any(found):
        pytest.skip('needs chromium')
    return next(filter(None, found))


def find_faults(folder: Path, pages: Sequence[str], width: int, tmp_path: Path) -> dict[str, list[str]]:
    """What is wrong with pages of a folder: on the console, not loaded, or beyond the right edge of the screen."""
    browser = find_browser()
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=folder)) as server:
        server.looks = LOOKS.replace('PAGES', json.dumps(list(pages))).replace('WIDTH', str(width))
        server.found, server.missing, server.done = {}, [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = [f'--user-data-dir={tmp_path / "chromium"}', '--window-size=1400,1000', '--remote-debugging-port=0']
        address = f'http://127.0.0.1:{server.server_port}/'
        shown = subprocess.Popen(
            [browser, '--headless', '--no-sandbox', '--disable-gpu', *flags, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert server.done.wait(300), 'Chromium did not come to the end of the pages.'
        finally:
            shown.terminate()
            shown.wait(30)
            server.shutdown()
    assert set(server.found) == set(pages), server.found
    faults = {page: found for page, found in server.found.items() if found}
    return faults | ({'not served': server.missing} if server.missing else {})
