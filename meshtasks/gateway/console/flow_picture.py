"""The flow of messages as a picture: drawn once, then updated by names of elements."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meshtasks.gateway.console.frame import text
from meshtasks.observation.flow_map import Edge, FlowMap, Kind, Node, colour_of
from meshtasks.text import clip

#: Sizes in pixels.
_WIDTHS: Mapping[Kind, int] = {
    "exchange": 150,
    "queue": 230,
    "worker": 170,
    "sink": 150,
}
_HEIGHT, _ROW, _GAP, _MARGIN, _HEAD = 40, 50, 84, 8, 24
_CHAR = 7.0

STYLE = """
.mesh-flow { display: block; width: 100%; height: auto;
  font: 12px system-ui, sans-serif; fill: var(--ink) }
.mesh-flow rect { fill: var(--card); stroke-width: 1.5 }
.mesh-flow .head, .mesh-flow .more { fill: var(--dim) }
.mesh-flow .bad { fill: var(--bad); font-weight: 600 }
.mesh-flow .rate { fill: var(--dim); font-size: 11px;
  font-variant-numeric: tabular-nums; paint-order: stroke; stroke: var(--page);
  stroke-width: 3px }
.mesh-flow path { fill: none; stroke: var(--dim); opacity: .45 }
.mesh-flow path.w0 { stroke-width: 1 } .mesh-flow path.w1 { stroke-width: 2 }
.mesh-flow path.w2 { stroke-width: 3.5 } .mesh-flow path.w3 { stroke-width: 5 }
.mesh-flow path.stopped { stroke: var(--bad); stroke-dasharray: 4 4; opacity: .8 }
.mesh-flow .end { text-anchor: end }
.mesh-flow-list { display: none } .mesh-flow-list ul { list-style: none; padding: 0 }
.mesh-flow-list section, .mesh-flow-list li { border-left: 6px solid var(--line);
  background: var(--card); border-radius: 3px; padding: .25rem .6rem;
  margin: .4rem 0; overflow-wrap: anywhere }
.mesh-flow-list .more, .mesh-flow-list .rate { color: var(--dim) }
.mesh-flow-list .bad { color: var(--bad); font-weight: 600 }
.mesh-flow-list .rate:not(:empty)::before { content: ' · out ' }
.mesh-flow-list .rate.end:not(:empty)::before { content: ' · in ' }
@media (max-width: 700px) { .mesh-flow-list { display: block }
  .mesh-flow, .mesh-wide { display: none } }
:root { --page: #f4f6f8 } body.body--dark { --page: #12181d }
"""


#: Updates texts and classes of elements by name, where they differ.
_SCRIPT = """
(() => { for (const [name, [content, kind]] of Object.entries(%s)) {
  for (const element of document.querySelectorAll(`[data-flow="${name}"]`)) {
    if (content !== null && element.textContent !== content)
      element.textContent = content;
    if (kind !== null && element.getAttribute('class') !== kind)
      element.setAttribute('class', kind);
  }
} })()
"""


class Shown(NamedTuple):
    """The text and the class of an element; None is not updated."""

    content: str | None
    kind: str | None


@dataclass(frozen=True, slots=True)
class Look:
    """What a box and its arrows show.

    Attributes:
        line: second line of the box.
        bad: whether something is wrong.
        rate_in: incoming messages per second; None if not known.
        rate_out: outgoing messages per second; None if not known.
    """

    line: str = ""
    bad: bool = False
    rate_in: float | None = None
    rate_out: float | None = None


class Picture:
    """A graph drawn as SVG and as a list."""

    def __init__(self, graph: FlowMap) -> None:
        self._graph = graph
        self._left = _lefts(graph)
        self._ids = {key: f"flow-{number}" for number, key in enumerate(graph.nodes)}
        self._shown: dict[str, Shown] = {}

    def svg(self, looks: Mapping[str, Look], words: str) -> str:
        """The picture as SVG.

        Args:
            looks: what each box shows, by its key.
            words: a description for screen readers.
        """
        self._shown = self._all(looks)
        width = max(self._left.values(), default=0) + _MARGIN
        height = _HEAD + self._graph.rows * _ROW + _MARGIN
        edges = "".join(
            self._edge(number, edge) for number, edge in enumerate(self._graph.edges)
        )
        nodes = "".join(map(self._node, self._graph.nodes.values()))
        return (
            f"<svg class='mesh-flow' viewBox='0 0 {width} {height}' role='img' "
            f"style='min-width:{0.85 * width:.0f}px;max-width:{1.1 * width:.0f}px' "
            f"aria-label='{text(words)}'>{self._heads()}{edges}{nodes}</svg>"
        )

    def listing(self) -> str:
        """The graph as a list: exchanges with destinations, then workers, sinks."""
        nodes = self._graph.nodes.values()
        exchanges = "".join(
            f"<section style='border-color:{colour_of(node.name)}'><h2 class='mesh-h2'>"
            f"{text(node.name or 'default')}</h2>{self._said(node)}"
            f"<ul aria-label='It leads to'>{self._reached(node)}</ul></section>"
            for node in nodes
            if node.kind == "exchange"
        )
        others = "".join(
            f"<section><h2 class='mesh-h2'>{kind}s</h2><ul>"
            + "".join(self._item(node) for node in nodes if node.kind == kind)
            + "</ul></section>"
            for kind in ("worker", "sink")
        )
        return f"<div class='mesh-flow-list'>{exchanges}{others}</div>"

    def _reached(self, exchange: Node) -> str:
        return "".join(
            self._item(self._graph.nodes[edge.target])
            for edge in self._graph.edges
            if edge.source == exchange.key
        )

    def _item(self, node: Node) -> str:
        kind = "exchange " if node.kind == "exchange" else ""
        return (
            f"<li style='border-color:{_colour(node)}'>{kind}{text(node.name)}<br>"
            f"{self._said(node)}</li>"
        )

    def _said(self, node: Node) -> str:
        """What a box shows, as a line of the list."""
        name = self._ids[node.key]
        return "".join(
            f"<span data-flow='{each}' class='{self._shown[each].kind}'>"
            f"{text(self._shown[each].content)}</span>"
            for each in (f"{name}-line", f"{name}-in", f"{name}-out")
            if each in self._shown
        )

    def changes(self, looks: Mapping[str, Look], *, everything: bool) -> str:
        """A script that updates the picture; empty if nothing changed.

        Args:
            looks: what each box shows, by its key.
            everything: update all elements, not only changed ones.
        """
        now = self._all(looks)
        changed = {
            key: shown
            for key, shown in now.items()
            if everything or self._shown.get(key) != shown
        }
        self._shown = now
        return _SCRIPT % json.dumps(changed).replace("<", "\\u003c") if changed else ""

    def _all(self, looks: Mapping[str, Look]) -> dict[str, Shown]:
        """The text and class of every element, by its name."""
        shown: dict[str, Shown] = {}
        for key, node in self._graph.nodes.items():
            look, name = looks.get(key, Look()), self._ids[key]
            line = clip(look.line, int((_WIDTHS[node.kind] - 16) / (_CHAR - 0.8)))
            shown[f"{name}-line"] = Shown(line, "bad" if look.bad else "more")
            if node.kind == "queue":
                shown[f"{name}-in"] = Shown(_rate(look.rate_in), "rate end")
                shown[f"{name}-out"] = Shown(_rate(look.rate_out), "rate")
        for number, edge in enumerate(self._graph.edges):
            shown[f"flow-edge-{number}"] = Shown(None, self._stroke(edge, looks))
        return shown

    def _stroke(self, edge: Edge, looks: Mapping[str, Look]) -> str:
        """The class of an arrow: its width, and whether nothing passes it."""
        source, target = looks.get(edge.source, Look()), looks.get(edge.target, Look())
        if edge.target.startswith("sink:"):
            return "w0 stopped" if target.bad else "w0"
        from_queue = edge.source.startswith("queue:")
        rate = source.rate_out if from_queue else target.rate_in
        stopped = " stopped" if from_queue and source.bad else ""
        return f"w{min(3, math.ceil(math.log10(1 + (rate or 0))))}{stopped}"

    def _heads(self) -> str:
        """The headings of the columns."""
        heads: dict[int, str] = {}
        for node in self._graph.nodes.values():
            heads.setdefault(node.column, f"{node.kind}s")
        return "".join(
            f"<text class='head' x='{self._left[column]}' y='14'>{head}</text>"
            for column, head in heads.items()
        )

    def _place(self, node: Node) -> tuple[float, float]:
        """The upper left corner of a box. Shorter columns spread over the height."""
        mine = sum(each.column == node.column for each in self._graph.nodes.values())
        step = _ROW * self._graph.rows / mine
        y = _HEAD + step * node.row + (step - _HEIGHT) / 2
        return self._left[node.column], y

    def _edge(self, number: int, edge: Edge) -> str:
        source, target = (self._graph.nodes[key] for key in (edge.source, edge.target))
        (x1, y1), (x2, y2) = self._place(source), self._place(target)
        y1, y2 = y1 + _HEIGHT / 2, y2 + _HEIGHT / 2
        x1 += _WIDTHS[source.kind]
        if source.column == target.column:  # exchanges bound in a cycle
            x2 += _WIDTHS[target.kind]
            bend = x1 + _GAP / 2
            way = f"M{x1:.0f} {y1:.0f}C{bend:.0f} {y1:.0f} {bend:.0f} {y2:.0f}"
        else:
            bend = min(_GAP, (x2 - x1) / 2)
            way = (
                f"M{x1:.0f} {y1:.0f}C{x1 + bend:.0f} {y1:.0f} {x2 - bend:.0f} {y2:.0f}"
            )
        name = f"flow-edge-{number}"
        keys = ", ".join(edge.routing_keys[:20])
        title = f"<title>{text(keys)}</title>" if keys else ""
        named = f"data-flow='{name}' class='{self._shown[name].kind}'"
        return f"<path {named} d='{way} {x2:.0f} {y2:.0f}'>{title}</path>"

    def _node(self, node: Node) -> str:
        x, y = self._place(node)
        width, name = _WIDTHS[node.kind], self._ids[node.key]
        colour = _colour(node)
        label = clip(node.name or "default", int((width - 16) / _CHAR))
        rates = ""
        if node.kind == "queue":
            rates = self._text(f"{name}-in", x - 4, y + 13)
            rates += self._text(f"{name}-out", x + width + 4, y + 13)
        return (
            f"<g><title>{text(node.name)}</title>"
            f"<rect x='{x}' y='{y:.1f}' width='{width}' height='{_HEIGHT}' rx='5' "
            f"style='stroke:{colour}'/>"
            f"<rect x='{x}' y='{y:.1f}' width='6' height='{_HEIGHT}' rx='3' "
            f"style='fill:{colour};stroke:none'/>"
            f"<text x='{x + 12}' y='{y + 16:.1f}'>{text(label)}</text>"
            f"{self._text(f'{name}-line', x + 12, y + 32)}{rates}</g>"
        )

    def _text(self, name: str, x: float, y: float) -> str:
        shown = self._shown[name]
        return (
            f"<text data-flow='{name}' class='{shown.kind}' x='{x:.0f}' y='{y:.1f}'>"
            f"{text(shown.content)}</text>"
        )


def _colour(node: Node) -> str:
    """The colour of the node's domain, or a neutral one."""
    of_domain = node.kind in {"exchange", "queue"}
    return colour_of(node.name) if of_domain else "var(--line)"


def _lefts(graph: FlowMap) -> dict[int, int]:
    """The left edge of each column, and the right edge of the last one."""
    kinds = {node.column: node.kind for node in graph.nodes.values()}
    left, lefts = _MARGIN, {}
    for column in sorted(kinds):
        lefts[column] = left
        left += _WIDTHS[kinds[column]] + _GAP
    lefts[graph.columns] = max(_MARGIN, left - _GAP)
    return lefts


def _rate(rate: float | None) -> str:
    if not rate:
        return ""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"  # noqa: PLR2004 - digits
