"""Colours and strokes of charts.

The eight colours of series keep their distance for people with any common kind of
colour blindness, next to each other and on both backgrounds; no text has them.
"""

from __future__ import annotations

#: Colours of series, slots 1 to 8: on a light background, and on a dark one.
LIGHT = (
    "#2a78d6",
    "#1baf7a",
    "#eda100",
    "#008300",
    "#4a3aa7",
    "#e34948",
    "#e87ba4",
    "#eb6834",
)
DARK = (
    "#3987e5",
    "#199e70",
    "#c98500",
    "#008300",
    "#9085e9",
    "#e66767",
    "#d55181",
    "#d95926",
)

BACKGROUND = "#fcfcfb"
INK = "#1d1d1b"
FAINT_INK = "#6b6a66"
GRID = "#e4e3df"

_LIGHT_THEME = f"""
--background: {BACKGROUND}; --card: #ffffff; --ink: {INK}; --faint: {FAINT_INK};
--grid: {GRID}; --edge: #c9c8c2; --critical: #c42f2f; --warning: #8a5a00;
--info: #1f62b3; --good: #0a6b45; --wash: #f1f0ec;
{" ".join(f"--s{slot}: {colour};" for slot, colour in enumerate(LIGHT, 1))}"""
_DARK_THEME = f"""
--background: #161615; --card: #1e1e1c; --ink: #f2f1ed; --faint: #a5a39b;
--grid: #34332f; --edge: #55534d; --critical: #ff8a85; --warning: #f0b849;
--info: #83b6f5; --good: #5fd0a2; --wash: #292825;
{" ".join(f"--s{slot}: {colour};" for slot, colour in enumerate(DARK, 1))}"""

_SLOTS = "\n".join(
    f".chart .s{slot} {{ --colour: var(--s{slot}); }}"
    for slot in range(1, len(LIGHT) + 1)
)

#: CSS of the page around charts; it follows the reader's light or dark setting.
STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT_THEME} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK_THEME} }} }}
.chart {{ display: block; width: 100%; height: auto;
  font: 12px system-ui, sans-serif; fill: var(--ink); }}
{_SLOTS}
.chart .grid {{ stroke: var(--grid); }}
.chart .axis {{ stroke: var(--edge); }}
.chart .tick {{ fill: var(--faint); font-variant-numeric: tabular-nums; }}
.chart .line {{ fill: none; stroke: var(--colour); stroke-width: 2;
  stroke-linejoin: round; stroke-linecap: round; }}
.chart .band {{ fill: var(--colour); opacity: .18; }}
.chart .bar, .chart .key {{ fill: var(--colour); }}
.chart .reading > * {{ opacity: 0; pointer-events: none; }}
.chart .reading > rect {{ fill: var(--ink); pointer-events: all; }}
.chart .reading:hover > * {{ opacity: 1; }}
.chart .reading:hover > rect {{ opacity: .06; }}
.chart .reading path {{ stroke: var(--faint); }}
.chart .reading circle {{ fill: var(--colour); stroke: var(--card); stroke-width: 2; }}
.chart .reading text {{ text-anchor: end; paint-order: stroke;
  stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }}
"""
