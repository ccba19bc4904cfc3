"""One run of the demo: boot, watch, stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import typer
from rich.console import Console
from rich.live import Live

from meshtasks.cli.demo_books import Books, Published, books_of, print_books
from meshtasks.cli.demo_steps import Steps
from meshtasks.cli.view.collect import Collector
from meshtasks.cli.view.render import draw, line
from meshtasks.cli.view.snapshot import Snapshot
from meshtasks.domain.errors import Transient
from meshtasks.embedded.process import Process, ProcessFailed
from meshtasks.embedded.stack import Stack
from meshtasks.messaging.connecting import connected
from meshtasks.messaging.entities import declare
from meshtasks.settings import Environment, Settings, load_settings

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130

_REDRAW_SECONDS = 0.5
#: Where there is no terminal, a line now and then.
_LINE_SECONDS = 5.0
_POLL_SECONDS = 0.2
_START_SECONDS = 60.0
