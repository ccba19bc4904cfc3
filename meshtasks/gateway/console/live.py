"""The page with copies of passing messages. They are copied only while it is open."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import Any

from amqp.exceptions import ChannelError
from nicegui import ui
from pydantic_core import from_json

from meshtasks.amqp.peek import every_exchange, pattern_fault, tapped
from meshtasks.amqp.receiving import Message
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.gateway.console.frame import Console, framed, status, text
from meshtasks.text import clip

_REFRESH_SECONDS = 0.5
_POLL_SECONDS = 0.5
_RETRY_SECONDS = 2.0
#: Messages on the page, and messages sent to the browser at once.
_SHOWN, _AT_ONCE = 100, 20
#: Limits of one message: bytes of its body, characters of a value and of the summary.
_BODY_BYTES, _VALUE_CHARS, _LINE_CHARS = 64 * 1024, 1_000, 120
#: Members of a body that are shown, and levels of nesting.
_NODES, _DEPTH = 300, 20

_STYLE = """
.mesh-tree { padding-left: 1rem } .mesh-tree summary { cursor: pointer }
.mesh-tree .k { color: var(--accent) }
.mesh-tree > div { padding-left: 1rem; overflow-wrap: anywhere }
"""

#: Inserts messages above the others; opened messages stay open.
_SCRIPT = """
(() => { const list = document.getElementById('live-messages'); if (!list) return;
  list.insertAdjacentHTML('afterbegin', %s);
  while (list.children.length > %d) list.lastElementChild.remove() })()
"""
_EMPTY = """
(() => { const list = document.getElementById('live-messages');
  if (list) list.replaceChildren() })()
"""


def add_live(console: Console) -> None:
    """Add the page."""

    @ui.page("/live")
    def live(pattern: str = "sensors.#") -> None:
        with framed(console, "/live"):
            _LivePage(console, pattern)


class _LivePage:
    """The page of one viewer, with a tap of its own."""

    def __init__(self, console: Console, pattern: str) -> None:
        self._listener = _Listener(console.settings, pattern)
        ui.add_css(_STYLE)
        with ui.row().classes("items-center w-full"):
            self._field = ui.input("Routing keys (* one word, # any)")
            self._field.set_value(pattern)
            self._field.classes("grow").on("keydown.enter", self._change)
            ui.button("Listen", on_click=self._change)
            self._pause = ui.switch("Pause")
            ui.button("Clear", on_click=self._clear).props("flat")
        self._state = status()
        ui.element("div").props("id=live-messages").classes("w-full")
        ui.timer(_REFRESH_SECONDS, self._refresh)
        client = ui.context.client
        client.on_connect(self._listener.start)  # not if the page is never opened
        client.on_delete(self._listener.stop)

    def _change(self) -> None:
        self._listener.change(self._field.value)
        self._clear()

    def _clear(self) -> None:
        self._listener.take()
        ui.run_javascript(_EMPTY)

    def _refresh(self) -> None:
        listener = self._listener
        kind = "mesh-bad" if listener.fault else ""
        passed = f" · {listener.passed:,} passed" if listener.passed else ""
        left_out = f", {listener.left_out:,} not shown" if listener.left_out else ""
        self._state.set_content(
            f"<span class='{kind}'>{text(listener.fault or listener.state)}</span>"
            f"{passed}{left_out}"
        )
        if not self._pause.value and (entries := listener.take()):
            newest_first = json.dumps("".join(reversed(entries)))
            ui.run_javascript(_SCRIPT % (newest_first, _SHOWN))


class _Listener:
    """The tap of one page, in a thread of its own.

    Attributes:
        state: what the listener does, in words.
        fault: why it receives nothing; empty if there is no fault.
        passed: messages since the pattern was set.
        left_out: those of them that are not shown because too many came at once.
    """

    def __init__(self, settings: Settings, pattern: str) -> None:
        self.state, self.fault = "Connecting …", ""
        self.passed = self.left_out = 0
        self._settings = settings
        self._pattern = pattern
        self._waiting: deque[str] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Start listening; a browser that reconnects changes nothing."""
        if self._thread.ident is None and not self._stopping.is_set():
            self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        self._changed.set()

    def change(self, pattern: str) -> None:
        """Listen to other routing keys and reset the counts."""
        self._pattern = pattern
        self.passed = self.left_out = 0
        self._changed.set()

    def take(self) -> list[str]:
        """The messages since the last call, as HTML, oldest first."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        return waiting

    def _run(self) -> None:
        topology = self._settings.read(TOPOLOGY)
        exchanges = every_exchange(topology)
        while not self._stopping.is_set():
            self._changed.clear()
            pattern = self._pattern
            if fault := pattern_fault(pattern):
                self.fault = fault
                self._changed.wait()
                continue
            try:
                with tapped(
                    self._settings.env.amqp_url, topology, pattern, exchanges
                ) as copies:
                    self.state, self.fault = f"Listening for {pattern}", ""
                    while not self._changed.is_set():
                        if message := copies.next(_POLL_SECONDS):
                            self._see(message)
            except (Transient, ConfigError, ChannelError) as error:
                self.fault = f"Nothing is seen: {error}"
                self._changed.wait(_RETRY_SECONDS)

    def _see(self, message: Message) -> None:
        self.passed += 1
        with self._lock:
            crowded = len(self._waiting) >= _AT_ONCE
        if crowded:  # too fast for the page, or the page is paused
            self.left_out += 1
            return
        entry = _entry(message, time.time())
        with self._lock:
            self._waiting.append(entry)


def _entry(message: Message, at: float) -> str:
    """A message as HTML."""
    clock = f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S.%f}"[:-3]
    body = message.body
    line = " ".join(body[: 4 * _LINE_CHARS].decode(errors="backslashreplace").split())
    return (
        "<details class='mesh-card q-mb-xs'><summary class='mesh-wrap'>"
        f"<span class='mesh-dim'>{clock} {text(message.exchange)}</span> "
        f"{text(message.routing_key)} "
        f"<span class='mesh-dim'>{text(clip(line, _LINE_CHARS))} "
        f"({len(body):,} bytes)</span></summary>{_body(body)}</details>"
    )


def _body(body: bytes) -> str:
    """A body as a tree; the start of its text if it is not JSON or is too large."""
    why = ""
    if len(body) > _BODY_BYTES:
        why = f"<p class='mesh-dim'>The first of {len(body):,} bytes:</p>"
    else:
        with suppress(ValueError):
            tree = _Tree().html("", from_json(body), 0)
            return f"<div class='mesh-tree'>{tree}</div>"
    shown = body[: 2 * _VALUE_CHARS].decode(errors="backslashreplace")
    return f"{why}<pre class='mesh-wrap'>{text(clip(shown, 2 * _VALUE_CHARS))}</pre>"


class _Tree:
    """JSON as HTML with details elements, up to a number of members."""

    def __init__(self) -> None:
        self._nodes = 0

    def html(self, name: str, value: Any, depth: int) -> str:
        """A value with its name."""
        key = (
            f"<span class='k'>{text(clip(name, _VALUE_CHARS))}</span> " if name else ""
        )
        self._nodes += 1
        if not isinstance(value, dict | list):
            shown = clip(json.dumps(value, ensure_ascii=False), _VALUE_CHARS)
            return f"<div>{key}{text(shown)}</div>"
        items = value.items() if isinstance(value, dict) else enumerate(value)
        what = f"{{{len(value):,}}}" if isinstance(value, dict) else f"[{len(value):,}]"
        inside = ""
        for each, member in items:
            if self._nodes >= _NODES or depth >= _DEPTH:
                inside += "<div class='mesh-dim'>and more</div>"
                break
            inside += self.html(str(each), member, depth + 1)
        opened = " open" if depth < 2 else ""  # noqa: PLR2004 - a record of an array
        return (
            f"<details{opened}><summary>{key}<span class='mesh-dim'>{what}</span>"
            f"</summary><div class='mesh-tree'>{inside}</div></details>"
        )
