"""What the user of the demo sees while the sensors speak."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, ConsoleDimensions
from rich.live import Live

from meshtasks.demo import loopback
from meshtasks.demo.books import published_so_far
from meshtasks.demo.stack import Stack
from meshtasks.demo.view.collect import Collector
from meshtasks.demo.view.render import draw, line

_REDRAW_SECONDS = 0.5
#: Without a terminal there is a line now and then.
_LINE_SECONDS = 5.0


class Screen:
    """Shows the mesh: redrawn in place on a terminal, else a line now and then.

    Args:
        for_seconds: length of the run; None for no end.
    """

    def __init__(
        self,
        console: Console,
        stack: Stack,
        collector: Collector,
        for_seconds: float | None,
    ) -> None:
        self._console = console
        self._stack = stack
        self._collector = collector
        self._for_seconds = for_seconds

    def print_hints(self) -> None:
        """How to publish something of one's own; whole lines, to be copied."""
        stack = self._stack
        broker = stack.rabbitmq
        by_amqp = (
            f". {shown_path(stack.env_file)}; {_program('meshtasks')} publish "
            "sensors sensors.temperature.balcony '{\"value\": 21.5}'"
        )
        by_http = (
            f"curl {stack.gateway_url}/v1/events/sensors/sensors.temperature.balcony "
            f"-H 'Authorization: Bearer {stack.gateway_token}' -d '{{\"value\": 21.5}}'"
        )
        by_mqtt = (
            f"mosquitto_pub -h {loopback.HOST} -p {broker.ports.mqtt} "
            f"-u {broker.user} -P {broker.password} "
            "-t sensors/temperature/balcony -m 21.5"
        )
        self._console.print("\nPublish a reading of your own, in another terminal:")
        for command in (by_amqp, by_mqtt, by_http):
            self._console.print(f"  {command}", markup=False, soft_wrap=True)
        self._console.print()

    def show_while(self, goes_on: Callable[[], bool]) -> None:
        """Show it as long as ``goes_on`` says so."""
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._redraw_while(goes_on)
        else:
            self._print_lines_while(goes_on)

    def _redraw_while(self, goes_on: Callable[[], bool]) -> None:
        began = time.monotonic()
        footer = self._footer()
        with Live(
            console=self._console, auto_refresh=False, vertical_overflow="crop"
        ) as live:
            while goes_on():
                width, height = self._console.size
                picture = draw(
                    self._collector.snapshot(),
                    title=self._title(time.monotonic() - began),
                    published=self._published(),
                    footer=footer,
                    terminal=ConsoleDimensions(width, height - 1),
                )
                live.update(picture, refresh=True)
                time.sleep(_REDRAW_SECONDS)

    def _print_lines_while(self, goes_on: Callable[[], bool]) -> None:
        began = next_at = time.monotonic()
        while goes_on():
            if (now := time.monotonic()) >= next_at:
                next_at = now + _LINE_SECONDS
                totals = line(self._collector.snapshot(), self._published())
                text = f"{_clock(now - began)}  {totals}"
                self._console.print(text, markup=False, soft_wrap=True)
            time.sleep(_REDRAW_SECONDS)

    def _published(self) -> str:
        books = published_so_far(self._stack.stats_file)
        return f"published {books.messages:,} messages"

    def _title(self, seconds: float) -> str:
        if self._for_seconds is None:
            return f"meshtasks demo   {_clock(seconds)}   Ctrl-C stops it"
        return f"meshtasks demo   {_clock(seconds)} of {_clock(self._for_seconds)}"

    def _footer(self) -> list[tuple[str, str]]:
        stack = self._stack
        broker = stack.rabbitmq
        flower = f"{stack.flower_user} / {stack.flower_password}"
        account = f"{broker.user} / {broker.password}"
        # Debian builds VictoriaMetrics without its web pages.
        page = f". {shown_path(stack.env_file)}; {_program('meshtasks')} report"
        return [
            ("readings", f"{page}   draws the rooms"),
            ("Flower", f"{stack.flower_url}   {flower}"),
            ("RabbitMQ", f"{broker.management_url}   {account}"),
            ("gateway", f"{stack.gateway_url}/docs   {stack.gateway_token}"),
            ("phone, n8n", f"{stack.receiver.url}   stands in for both"),
        ]


def shown_path(path: Path) -> str:
    """The path as the user would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _program(name: str) -> str:
    """The program as the user would type it here."""
    installed = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    if found and Path(found).resolve() == installed.resolve():
        return name
    return shown_path(installed)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
