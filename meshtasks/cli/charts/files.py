"""Charts as files."""

from __future__ import annotations

from html import escape
from pathlib import Path

from meshtasks.cli.charts.chart import Chart
from meshtasks.cli.charts.style import STYLE
from meshtasks.cli.charts.svg import svg

_WIDTH, _HEIGHT = 960, 480

_PAGE_STYLE = """
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--card);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; }
pre { padding: .8rem; white-space: pre-wrap; background: var(--wash); }
"""


def write_chart(chart: Chart, path: Path, note: str) -> None:
    """Write a chart in the form that the file's name asks for.

    Args:
        chart: what to draw.
        path: ends in ``.png``, ``.svg`` or ``.html``.
        note: where it comes from; a page tells it.

    Raises:
        OSError: the file cannot be written.
    """
    match path.suffix.lower():
        case ".png":
            from meshtasks.cli.charts.png import write_png  # noqa: PLC0415 - slow

            write_png(chart, path)
        case ".svg":
            path.write_text(_picture(chart), encoding="utf-8")
        case _:
            path.write_text(_page(chart, note), encoding="utf-8")


def _picture(chart: Chart) -> str:
    """An SVG file; alone it needs its style, size and namespace with it."""
    size = f'width="{_WIDTH}" height="{_HEIGHT}" style="background: var(--card)"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
    drawing = svg(chart, _WIDTH, _HEIGHT).removeprefix("<svg ")
    attributes, _, rest = drawing.partition(">")
    return f"{start}{attributes}><style>{STYLE}</style>{rest}\n"


def _page(chart: Chart, note: str) -> str:
    title = escape(chart.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}{_PAGE_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{svg(chart, _WIDTH, _HEIGHT)}
<pre>{escape(note)}</pre>
</body>
</html>
"""
