"""The frame of every page: the header with its links, and the current viewer."""

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
#: Interval at which a page reports that it is open and checks its session.
_STAY_SECONDS = 5.0

#: Updates a card with a new item.
Change = Callable[[T], None]


def staying(
    place: ui.element, action: Callable[[], object]
) -> Callable[[], Awaitable[None]]:
    """Return the action with its dialogs and notices bound to an element that stays.
    The card of the button may be deleted before the action ends."""

    async def run() -> None:
        with place:
            result = action()
            if isawaitable(result):
                await result

    return run


class Cards(Generic[T]):
    """Cards in an element, one per key.

    Args:
        inside: the element.
        make: fills a new card and returns the function that updates it.
        classes: CSS classes of a card.
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
        """Show exactly these items, in this order."""
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


# Among important rules, the first layer wins; that is NiceGUI's "theme". So these rules
# override Quasar's, which remove the outline of the focused element.
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
    """The objects that the pages share.

    Attributes:
        context: the parts that the gateway's routes share.
        flows: all flows.
        sessions: the current sessions.
        settings: settings with the console's own broker account.
        watch: the current state of the mesh.
        dead_letters: the dead letters and the actions on them.
        alerts: the alerts.
        routes: routes beside the pages; they need a session as well.
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
        """The client whose page is being created or used; None if the session has
        ended."""
        request = ui.context.client.request
        return self.sessions.client_of(request.cookies.get(COOKIE))

    def operator(self) -> Client | None:
        """The viewer if it has the scope ``operate``, else None."""
        viewer = self.viewer()
        return viewer if viewer and OPERATE in viewer.scopes else None

    def may_operate(self) -> bool:
        """Whether the viewer has the scope ``operate``."""
        return self.operator() is not None

    def button(self, name: str, action: Callable[[], object]) -> ui.button:
        """A button; it is disabled for viewers without the scope ``operate``."""
        button = ui.button(name, on_click=action)
        if not self.may_operate():
            button.disable()
            button.tooltip(NEEDS_OPERATE)
        return button


def _asked() -> str:
    url = ui.context.client.request.url
    return f"{url.path}?{url.query}" if url.query else url.path


def html(content: str = "") -> ui.html:
    """HTML of a page. Text from outside must pass :func:`text` first."""
    return ui.html(content, sanitize=False)


def status(content: str = "") -> ui.html:
    """HTML whose changes screen readers announce."""
    return html(content).props('role="status"')


def scrolling(label: str) -> ui.html:
    """HTML that scrolls in a narrow window, also by keyboard."""
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
        title: its caption, as HTML; empty for none.
        head: names of the columns.
        rows: the cells, as HTML.
        numbers: names of the columns with numbers.
        of: index of the column that names the row; None if there is none.
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
    caption = f"<caption class='mesh-h2'>{title}</caption>" if title else ""
    rows_of_table = "</tr><tr>".join(lines)
    return f"<table class='mesh-table'>{caption}<tr>{rows_of_table}</tr></table>"


def text(value: object) -> str:
    """Text from outside, escaped for HTML."""
    return escape(printable(str(value)))


def bad(fault: object, kind: str = "") -> str:
    """A fault as HTML; ``kind`` is an additional CSS class."""
    return f'<span class="mesh-bad {kind}">{text(fault)}</span>'


def moment(at: float) -> str:
    """A moment, epoch seconds, as local date and time."""
    return f"{datetime.fromtimestamp(at).astimezone():%d %b %H:%M:%S}"


@contextmanager
def notified(kind: type[Exception] = MeshError) -> Iterator[None]:
    """Show an exception of this kind as a notice; it ends the block."""
    try:
        yield
    except kind as error:
        ui.notify(str(error), type="negative", multi_line=True)


@contextmanager
def question(label: str, yes: str) -> Iterator[ui.dialog]:
    """A dialog with a button of this name and one to cancel; the block adds its
    content. Awaiting the dialog gives true if the viewer has chosen ``yes``."""
    with ui.dialog() as dialog, ui.card():
        dialog.props(f'aria-label="{label}"')
        yield dialog
        with ui.row():
            ui.button(yes, on_click=lambda: dialog.submit(result=True))
            ui.button("Cancel", on_click=dialog.close).props("flat")


@contextmanager
def framed(console: Console, address: str, title: str = "") -> Iterator[None]:
    """The frame of a page; the block adds its content.

    Args:
        console: the shared objects.
        address: address of the page; for a page with a title, address of the page that
            links to it.
        title: title of a page that is not in :data:`PAGES`.
    """
    ui.add_css(_STYLE)
    ui.colors(primary="#1f5f8b", positive="#1b6e3c", negative="#b3261e")
    ui.dark_mode(None)
    console.watch.want()
    title = title or PAGES[address]
    ui.page_title(f"{title} · meshtasks")
    _add_header(console, address)
    with ui.element("main").classes("w-full column gap-3"):
        html(f"<h1 class='text-h5'>{text(title)}</h1>")
        yield
    _stay_open(console)


def _add_header(console: Console, address: str) -> None:
    """Add the links to the pages, and the viewer's name."""
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


def _stay_open(console: Console) -> None:
    """Keep the watch running while the page is open and its session lasts. Then open
    the login, and after that delete the client if its browser did not leave the page.
    NiceGUI deletes one whose browser left, later, and fails where it is gone by then.
    """
    is_over = False

    def stay() -> None:
        nonlocal is_over
        if console.viewer() is not None:
            console.watch.want()
        elif not is_over:
            is_over = True
            ui.navigate.to(f"/login?next={quote(_asked(), safe='')}")
        elif (client := ui.context.client).has_socket_connection:
            client.delete()

    ui.timer(_STAY_SECONDS, stay)
