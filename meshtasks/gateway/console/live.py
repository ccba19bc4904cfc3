"""Copies of messages as they pass, for one page; they end with it."""

from __future__ import annotations

import threading
import time
from collections import deque
from datetime import datetime

from amqp.exceptions import ChannelError
from nicegui import ui

from meshtasks.amqp.receiving import Message
from meshtasks.amqp.tap import every_exchange, tapped
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError, Transient
from meshtasks.gateway.console.frame import Console, framed, text
from meshtasks.records.json_text import body_text
from meshtasks.text import clip

_REFRESH_SECONDS = 0.5
_POLL_SECONDS = 0.5
_RETRY_SECONDS = 2.0
#: Messages that are shown, and how much of each.
_SHOWN, _SHOWN_CHARS, _LINE_CHARS = 100, 20_000, 120


def add_live(console: Console) -> None:
    """Serve the page."""

    @ui.page("/live")
    def live(pattern: str = "sensors.#") -> None:
        with framed(console, "/live"):
            listener = _Listener(console.settings, pattern)
            with ui.row().classes("items-center w-full"):
                field = ui.input("Routing keys (* one word, # any)", value=pattern)
                field.classes("grow")
                ui.button("Listen", on_click=lambda: listener.change(field.value))
                pause = ui.switch("Pause")
            state = ui.html("", sanitize=False).props('role="status"')
            shown = ui.html("", sanitize=False).classes("w-full")

            def refresh() -> None:
                state.set_content(text(listener.state))
                if listener.changed and not pause.value:
                    listener.changed = False
                    shown.set_content("".join(listener.newest_first()))

            ui.timer(_REFRESH_SECONDS, refresh)
        listener.start()
        ui.context.client.on_delete(listener.stop)


class _Listener:
    """One page's tap, in a thread of its own."""

    def __init__(self, settings: Settings, pattern: str) -> None:
        self.state = ""
        self.changed = False
        self._settings = settings
        self._pattern = pattern
        self._entries: deque[str] = deque(maxlen=_SHOWN)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()

    def change(self, pattern: str) -> None:
        """Listen to other routing keys."""
        self._pattern = pattern
        self._entries.clear()
        self.changed = True

    def newest_first(self) -> list[str]:
        """What has passed, as HTML; written once, when it came."""
        return list(self._entries)[::-1]

    def _run(self) -> None:
        topology = self._settings.read(TOPOLOGY)
        exchanges = every_exchange(topology)
        while not self._stopping.is_set():
            pattern = self._pattern
            try:
                with tapped(
                    self._settings.env.amqp_url, topology, pattern, exchanges
                ) as copies:
                    self.state = f"Listening for {pattern}"
                    while pattern == self._pattern and not self._stopping.is_set():
                        if message := copies.next(_POLL_SECONDS):
                            self._entries.append(_entry(message, time.time()))
                            self.changed = True
            except (Transient, ConfigError, ChannelError) as error:
                self.state = f"Nothing is seen: {error}"
                self._stopping.wait(_RETRY_SECONDS)


def _entry(message: Message, at: float) -> str:
    """A message as HTML."""
    clock = f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S.%f}"[:-3]
    line = " ".join(message.body.decode(errors="backslashreplace").split())
    whole = clip(body_text(message.body), _SHOWN_CHARS)
    return (
        "<details class='mesh-card q-mb-xs'><summary class='mesh-wrap'>"
        f"<span class='mesh-dim'>{clock} {text(message.exchange)}</span> "
        f"{text(message.routing_key)} "
        f"<span class='mesh-dim'>{text(clip(line, _LINE_CHARS))}"
        f"</span></summary><pre class='mesh-wrap'>{text(whole)}</pre>"
        "</details>"
    )
