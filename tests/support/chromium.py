"""Pages as a browser shows them: headless Chromium, and what it found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

#: Of every start: no window, nothing fetched, nothing asked.
OPTIONS = (
    "--headless",
    "--no-sandbox",  # it may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
_POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
_DARK = "--blink-settings=preferredColorScheme=0"


def absent_reason() -> str | None:
    """Why there is no browser; None if there is."""
    if shutil.which("chromium"):
        return None
    return "this release has no package of it (Ubuntu has a snap only)"


def look(page: Path, script: str, *, width: int, dark: bool) -> Any:
    """What a script finds in a page as it is shown.

    Args:
        page: an HTML file; its own policy may forbid scripts, so a copy is shown
            with that line left out.
        script: body of a JavaScript function; what it returns is given as JSON.
        width: of the window, pixels.
        dark: whether the reader prefers dark pages.
    """
    html = _POLICY.sub("", page.read_text(encoding="utf-8"))
    probe = (
        "<script>addEventListener('load', () => { const found = JSON.stringify("
        f"(() => {{ {script} }})()); const box = document.createElement('pre');"
        "box.id = 'found'; box.textContent = found; document.body.append(box) })"
        "</script>"
    )
    copy = page.with_suffix(".probed.html")
    copy.write_text(html.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    shown = _run(copy, "--dump-dom", width=width, dark=dark).stdout
    found = re.search('<pre id="found">(.*?)</pre>', shown, re.DOTALL)
    assert found, shown[-2000:]
    return json.loads(unescape(found[1]))


def complaints(page: Path) -> list[str]:
    """What the browser complains of: refused or missing resources, script errors."""
    log = _run(page, "--dump-dom", width=1280, dark=False).stderr
    return [line for line in log.splitlines() if "CONSOLE" in line]


def _run(
    page: Path, action: str, *, width: int, dark: bool
) -> subprocess.CompletedProcess[str]:
    profile = page.with_name("chromium-profile")
    return subprocess.run(
        [
            "chromium",
            *OPTIONS,
            *([_DARK] if dark else []),
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            action,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


#: Script that finds the worst contrast of any text with what is behind it (WCAG 2.2,
#: contrast ratio), and that text.
WORST_CONTRAST = """
const channels = colour => colour.match(/[0-9.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = channels(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
let worst = [Infinity, ''];
for (const element of document.body.querySelectorAll('*')) {
  const text = [...element.childNodes].filter(n => n.nodeType === 3)
    .map(n => n.data.trim()).join('');
  if (!text || ['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
  const style = getComputedStyle(element);
  const colour = channels(element instanceof SVGElement ? style.fill : style.color);
  const [light, dim] = [luminance(colour), luminance(behind(element))]
    .sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dim + 0.05);
  if (ratio < worst[0]) worst = [ratio, text];
}
"""
