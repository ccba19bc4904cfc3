"""Ages that go on while a page is open. Their HTML is the same for all pages, so the
browser counts, by the gateway's clock."""

from __future__ import annotations

import time
from datetime import datetime

from nicegui import ui

#: Says an age in the words of ``span_text``. What changes is seen at once, so that a
#: value never stands beside the age of the one before.
_COUNTING = """<script>(() => {
  const ahead = Date.now() / 1000 - %.3f
  const units = [[172800, 86400, "d"], [7200, 3600, "h"], [60, 60, "min"], [1, 1, "s"]]
  const said = seconds => {
    for (const [least, size, unit] of units)
      if (seconds >= least) return `${Math.floor(seconds / size)} ${unit}`
  }
  const count = () => {
    const now = Date.now() / 1000 - ahead
    for (const each of document.querySelectorAll("time[data-at]")) {
      const age = now - each.dataset.at
      const text = age < -5 ? `${said(-age)} ahead`
        : age < 1 ? "just now" : `${said(age)} ago`
      if (each.textContent !== text) {
        each.textContent = text
        each.title = new Date(1000 * each.dataset.at).toLocaleString()
      }
    }
    seen.takeRecords()
  }
  const seen = new MutationObserver(count)
  document.addEventListener("DOMContentLoaded", () => {
    seen.observe(document.body, {subtree: true, childList: true})
    setInterval(count, 1000)
  })
})()</script>"""


def count_ages() -> None:
    """Have this page count the ages on it."""
    ui.add_head_html(_COUNTING % time.time())


def age(at: float) -> str:
    """An age as HTML: of a moment, epoch seconds."""
    try:
        clock = f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError, OSError):  # of a clock that is wrong
        clock = ""
    return f'<time class="mesh-dim mesh-age" data-at="{at:.3f}">{clock}</time>'
