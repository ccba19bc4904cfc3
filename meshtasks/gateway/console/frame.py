"""What every page has: the head with the way to the others, and who looks."""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from datetime import datetime
from html import escape
from inspect import isawaitable
from typing import Generic, TypeVar
from urllib.parse import quote

from fastapi import APIRouter
from nicegui import ui

from meshtasks.errors import MeshError
from meshtasks.flows.loading import Flows
from meshtasks.gateway.clients import Client
from meshtasks.gateway.console import PAGES
from meshtasks.gateway.console.dead_letters_model import DeadLettersModel
from meshtasks.gateway.console.sessions import COOKIE, OPERATE, Sessions
from meshtasks.gateway.console.watch import AlertsModel, MeshWatch
from meshtasks.gateway.context import Context
from meshtasks.text import printable

T = TypeVar("T")
_LOG_OUT = (
    '<form method="post" action="/logout" class="mesh-log-out"><span>{}</span>'
    "<button>Log out</button></form>"
)
NEEDS_OPERATE = "needs a token with the scope operate"
#: A page says so often that it is there, and is over so long after its session.
_STAY_SECONDS = 5.0

#: Shows new content in a card.
Change = Callable[[T], None]


def staying(
    place: ui.element, action: Callable[[], object]
) -> Callable[[], Awaitable[None]]:
    """An action whose dialogs and notices belong to a place that stays, and not to the
    card of the button, which may be gone before the action ends."""

    async def run() -> None:
        with place:
            result = action()
            if isawaitable(result):
                await result

    return run


class Cards(Generic[T]):
    """Cards in an element, one a key.

    Args:
        make: fills a new card; gives what changes it.
    """

    def __init__(
        self,
        inside: ui.element,
        make: Callable[[T], Change[T]],
        classes: str = "mesh-card w-full",
    ) -> None:
        self._inside = inside
        self._make = make
        self._classes = classes
        self._cards: dict[Hashable, tuple[ui.element, Change[T]]] = {}

    def show(self, items: Iterable[tuple[Hashable, T]]) -> None:
        """Show these, in this order, and no others."""
        wanted = dict(items)
        for key in [key for key in self._cards if key not in wanted]:
            card, _ = self._cards.pop(key)
            card.delete()
        for index, (key, item) in enumerate(wanted.items()):
            if key in self._cards:
                card, change = self._cards[key]
            else:
                with (
                    self._inside,
                    ui.element("div").classes(self._classes) as card,
                ):
                    change = self._make(item)
                self._cards[key] = card, change
            change(item)
            if self._inside.default_slot.children[index] is not card:
                card.move(target_index=index)


# Of important rules those of the first layer win, which is NiceGUI's "theme": so do
# these over Quasar's, which take the outline from what has the focus.
_STYLE = """
@layer theme {
  :focus-visible { outline: 2px solid var(--accent) !important;
    outline-offset: 2px !important }
  .q-header :focus-visible, .bg-primary:focus-visible {
    outline-color: currentColor !important; outline-offset: -3px !important }
  body.body--dark .text-primary { color: var(--accent) !important }
}
:root { --ink: #1b2733; --dim: #57636e; --card: #fff; --line: #d5dde3;
  --bad: #b3261e; --good: #1b6e3c; --accent: #1f5f8b }
body { background: #f4f6f8; color: var(--ink) }
body.body--dark { --ink: #e6ecf1; --dim: #a3b0bb; --card: #1d252c; --line: #36424c;
  --bad: #ff8a80; --good: #7fd6a0; --accent: #8cc4ee; background: #12181d }
.mesh-row span, .mesh-chips li, .mesh-table td, .mesh-table th { unicode-bidi: isolate }
main, .q-dialog { overflow-wrap: anywhere }
.mesh-card { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; padding: .75rem 1rem; min-width: 0 }
.mesh-alerting { border-color: var(--bad); box-shadow: inset .25rem 0 0 var(--bad) }
.mesh-row.mesh-sensor { flex-wrap: nowrap }
.mesh-sensor > :last-child { white-space: nowrap }
.mesh-age { display: inline-block; min-width: 3.9rem; font-size: .85em;
  text-align: right }
.mesh-grid { display: grid; gap: .75rem; width: 100%; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)) }
.mesh-dim { color: var(--dim) } .mesh-bad { color: var(--bad) }
.mesh-good { color: var(--good) }
.mesh-card h2, .mesh-h2 { font-size: 1rem; font-weight: 600; line-height: 1.4;
  margin: 0 0 .25rem }
.mesh-row { display: flex; justify-content: space-between; align-items: baseline;
  gap: .5rem; flex-wrap: wrap }
.mesh-value { font-size: 1.35rem; font-variant-numeric: tabular-nums }
.mesh-line { width: 100%; height: 2.2rem; color: var(--accent) }
.mesh-badge { border: 1px solid var(--line); border-radius: 1rem;
  padding: .1rem .7rem; font-variant-numeric: tabular-nums; color: var(--ink) }
a.mesh-plain { color: inherit; text-decoration-style: dotted }
.mesh-curve { width: 100%; height: 14rem; color: var(--accent) }
.mesh-curve rect { fill: var(--dim); fill-opacity: .18 }
.mesh-curve rect.hole { fill: var(--bad); fill-opacity: .22 }
.mesh-wrap { overflow-wrap: anywhere } pre.mesh-wrap { white-space: pre-wrap }
table.mesh-table { border-collapse: collapse; width: 100% }
table.mesh-table caption { text-align: left }
table.mesh-table th, table.mesh-table td { text-align: left; padding: .3rem .5rem;
  border-bottom: 1px solid var(--line); vertical-align: top }
table.mesh-table td.n, table.mesh-table th.n { text-align: right;
  font-variant-numeric: tabular-nums }
.mesh-chips { display: flex; flex-wrap: wrap; gap: .25rem; list-style: none;
  margin: .25rem 0; padding: 0 }
.mesh-chips li { border: 1px solid var(--line); border-radius: 1rem;
  padding: 0 .6rem; overflow-wrap: anywhere }
.mesh-time { width: 100%; height: .8rem; fill: var(--bad);
  border-bottom: 1px solid var(--line) }
.mesh-progress { width: min(20rem, 60vw) }
.mesh-link { color: var(--accent); padding: .5rem }
a.nicegui-link { color: var(--accent) }
.q-loading-bar { display: none }
.q-dialog__inner { z-index: 1 }
.mesh-scroll { overflow-x: auto; width: 100% }
.mesh-log-out { display: flex; gap: .75rem; align-items: baseline }
.mesh-log-out button { font: inherit; color: inherit; background: none; border: 0;
  text-decoration: underline; cursor: pointer }
.q-header a { color: inherit; text-decoration: none }
.q-header a[aria-current] { text-decoration: underline; text-underline-offset: .35em }
"""


class Console:
    """What the pages share.

    Attributes:
        settings: with the console's own account of the broker.
        watch: what is seen of the mesh.
        dead_letters: what is known of them.
        alerts: the alerts.
        routes: what is served beside the pages, to whoever is logged in.
    """

    def __init__(self, context: Context, flows: Flows, sessions: Sessions) -> None:
        self.context, self.flows, self.sessions = context, flows, sessions
        self.settings = settings = context.looking
        self.watch = MeshWatch(settings)
        refusal = context.validator.verdicts.refusal
        self.dead_letters = DeadLettersModel(settings, refusal)
        self.alerts = AlertsModel(settings)
        self.routes = APIRouter()

    def viewer(self) -> Client | None:
        """Who looks at the page that is being made or used; None once the session is
        over."""
        request = ui.context.client.request
        return self.sessions.client_of(request.cookies.get(COOKIE))

    def operator(self) -> Client | None:
        """The viewer, if they may change something."""
        viewer = self.viewer()
        return viewer if viewer and OPERATE in viewer.scopes else None

    def may_operate(self) -> bool:
        """Whether the viewer may change something."""
        return self.operator() is not None

    def button(self, name: str, action: Callable[[], object]) -> ui.button:
        """A button for those who may change something."""
        button = ui.button(name, on_click=action)
        if not self.may_operate():
            button.disable()
            button.tooltip(NEEDS_OPERATE)
        return button


def _asked() -> str:
    url = ui.context.client.request.url
    return f"{url.path}?{url.query}" if url.query else url.path


def html(content: str = "") -> ui.html:
    """HTML of a page's own; what comes from outside is in it by :func:`text`."""
    return ui.html(content, sanitize=False)


def status(content: str = "") -> ui.html:
    """HTML that is read out to those who hear the page when it changes."""
    return html(content).props('role="status"')


def scrolling(label: str) -> ui.html:
    """HTML that scrolls where the window is narrow, by keyboard, too."""
    box = html().classes("mesh-scroll")
    box.props.update({"tabindex": 0, "role": "region", "aria-label": label})
    return box


def table(
    title: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: Collection[str] = (),
    of: int | None = 0,
) -> str:
    """A table as HTML.

    Args:
        rows: their cells, as HTML.
        numbers: the columns of numbers.
        of: the column that says what a row is of.
    """
    kinds = [" class='n'" * (name in numbers) for name in head]
    lines = [
        "".join(
            f"<th scope='col'{kind}>{name}</th>"
            for name, kind in zip(head, kinds, strict=True)
        )
    ]
    lines += (
        "".join(
            f"<th scope='row'>{cell}</th>" if column == of else f"<td{kind}>{cell}</td>"
            for column, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        )
        for row in rows
    )
    return (
        f"<table class='mesh-table'><caption class='mesh-h2'>{title}</caption>"
        f"<tr>{'</tr><tr>'.join(lines)}</tr></table>"
    )


def text(value: object) -> str:
    """Text from outside, to stand in HTML."""
    return escape(printable(str(value)))


def bad(fault: object, kind: str = "") -> str:
    """What is wrong, as HTML."""
    return f'<span class="mesh-bad {kind}">{text(fault)}</span>'


def moment(at: float) -> str:
    """A moment, epoch seconds, as people write it."""
    return f"{datetime.fromtimestamp(at).astimezone():%d %b %H:%M:%S}"


@contextmanager
def notified(kind: type[Exception] = MeshError) -> Iterator[None]:
    """Whoever looks at the page is told of such a fault, which ends what is inside."""
    try:
        yield
    except kind as error:
        ui.notify(str(error), type="negative", multi_line=True)


@contextmanager
def framed(console: Console, address: str, title: str = "") -> Iterator[None]:
    """The frame of a page; its content goes inside.

    Args:
        address: of the page; of one that leads to it, of a page that has a title.
        title: of a page that is not in the list of pages.
    """
    ui.add_css(_STYLE)
    ui.colors(primary="#1f5f8b", positive="#1b6e3c", negative="#b3261e")
    ui.dark_mode(None)
    console.watch.want()
    title = title or PAGES[address]
    ui.page_title(f"{title} · meshtasks")
    with (
        ui.header().classes("items-center q-py-xs"),
        ui.element("nav").props('aria-label="Pages"').classes("row gap-4 w-full"),
    ):
        for path, name in PAGES.items():
            link = ui.link(name, path)
            if path == address:
                link.props('aria-current="page"')
        ui.space()
        viewer = console.viewer()
        if viewer:
            html(_LOG_OUT.format(text(viewer.name)))
    with ui.element("main").classes("w-full column gap-3"):
        html(f"<h1 class='text-h5'>{text(title)}</h1>")
        yield

    is_over = False

    def stay() -> None:
        """Have the mesh looked at, as long as the session lasts; then lead to the
        login, and a little later send no more to whoever did not follow."""
        nonlocal is_over
        if console.viewer() is not None:
            console.watch.want()
        elif is_over:
            ui.context.client.delete()
        else:
            is_over = True
            ui.navigate.to(f"/login?next={quote(_asked(), safe='')}")

    ui.timer(_STAY_SECONDS, stay)
