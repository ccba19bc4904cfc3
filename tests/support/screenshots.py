"""``make screenshots``: pictures of the console's pages, taken in a demo."""

from __future__ import annotations

import base64
import io
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from meshtasks.gateway.console import PAGES
from tests.support.browser import Browser
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
_TARGET = ROOT / "docs" / "images"
_COMMAND = Path(sys.executable).with_name("meshtasks")
#: The house speaks for so long first, so that there is something to be seen.
_SPEAKING_SECONDS = 90.0
_ENTRANCE = re.compile(r"(http://[\d.:]+)/login\?token=\S+")
_WIDE, _NARROW = 1280, 390
#: The link to the page of a sensor that speaks.
_SENSOR = (
    "document.querySelector('.mesh-row:not(.mesh-dim) a"
    '[href^="/sensor/sensors.temperature"]\')'
)


def main() -> None:
    """Take them."""
    _TARGET.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        _demo(Path(directory)) as entrance,
        Browser(Path(directory)) as browser,
    ):
        time.sleep(_SPEAKING_SECONDS)
        browser.look(width=_WIDE)
        browser.open(entrance)
        browser.wait_for("House")
        address = entrance.rpartition("/login")[0]
        browser.wait_for(" °C")
        sensor = browser.evaluate(f"{_SENSOR}.getAttribute('href')")
        _take(browser, f"{address}{sensor}&hours=0.1", "sensor.png")
        for path, title in PAGES.items():
            name = title.lower().replace(" ", "-")
            _take(browser, address + path, f"{name}.png")
        _take(browser, address, "house-dark.png", dark=True)
        _take(browser, address, "house-phone.png", width=_NARROW)


@contextmanager
def _demo(directory: Path) -> Iterator[str]:
    """A demo; the address that logs in."""
    output = directory / "demo.log"
    with output.open("w") as file:
        process = subprocess.Popen(
            [_COMMAND, "demo", "--rate", "50", "--state", directory / "state"],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or _ENTRANCE.search(output.read_text()),
            300,
            "the demo",
        )
        found = _ENTRANCE.search(output.read_text())
        assert found, output.read_text()
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _take(
    browser: Browser, url: str, name: str, *, width: int = _WIDE, dark: bool = False
) -> None:
    browser.look(width=width, dark=dark)
    browser.open(url)
    wait_until(lambda: browser.evaluate("!!document.querySelector('h1')"), 60, url)
    wait_until(lambda: "Looking" not in browser.text(), 60, f"what is on {url}")
    time.sleep(5.0)  # what is looked for has come
    picture = browser.call("Page.captureScreenshot", format="png")["data"]
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(192).save(_TARGET / name, optimize=True)
    sys.stderr.write(f"{name}: {(_TARGET / name).stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
