"""The page of workers and their batches, of commands with a form each, and of links to
other programs."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from nicegui import ui
from pydantic import ValidationError

from meshtasks.amqp.frames import new_message_id
from meshtasks.config.durations import span_text
from meshtasks.errors import MeshError
from meshtasks.flows.contract import Command
from meshtasks.gateway.clients import Client
from meshtasks.gateway.console.form import FieldFault, Form
from meshtasks.gateway.console.frame import (
    Console,
    bad,
    framed,
    html,
    moment,
    scrolling,
    status,
    table,
    text,
)
from meshtasks.gateway.problems import Problem
from meshtasks.gateway.routes import checked, start
from meshtasks.gateway.store import Task
from meshtasks.observation.seen import BatchEvent
from meshtasks.records.models import explain
from meshtasks.text import clip

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 2.0
_TASKS, _CHARS = 20, 300
#: Names of programs in their own spelling.
_NAMES = {"rabbitmq": "RabbitMQ", "n8n": "n8n", "ntfy": "ntfy", "influxdb": "InfluxDB"}
_OUTCOMES = ("succeeded", "retried", "failed")


def add_workers(console: Console) -> None:
    """Add the page."""

    @ui.page("/workers")
    def workers() -> None:
        with framed(console, "/workers"):
            _links(console)
            heard, outcomes = scrolling("Workers"), scrolling("Outcomes")
            html("<h2 class='mesh-h2'>Commands</h2>")
            for command in console.context.commands.values():
                _CommandForm(console, command)
            tasks = scrolling("Commands that were started")

            async def refresh() -> None:
                console.watch.want_workers()
                heard.set_content(_workers(console))
                outcomes.set_content(_outcomes(console) + _batches(console))
                viewer = console.viewer()
                if viewer is not None:
                    tasks.set_content(await asyncio.to_thread(_tasks, console, viewer))

            ui.timer(_REFRESH_SECONDS, refresh)  # runs once immediately


def _links(console: Console) -> None:
    links = {name: url for name, url in console.settings.env.links.items() if url}
    if not links:
        return
    with ui.element("nav").props('aria-label="Other programs"').classes("row gap-4"):
        for name, url in sorted(links.items()):
            shown = _NAMES.get(name, name.replace("_", " ").capitalize())
            ui.link(shown, url, new_tab=True).props('rel="noopener noreferrer"')


class _CommandForm:
    """The form of a command; it starts the command as the HTTP API does."""

    def __init__(self, console: Console, command: Command[Any]) -> None:
        self._console = console
        self._command = command
        what = (command.run.__doc__ or "").partition("\n")[0]
        with ui.expansion(command.name, caption=what).classes("mesh-card w-full"):
            self._form = Form(command.arguments)
            button = ui.button(f"Start {command.name}", on_click=self._start)
            self._fault = status()
        viewer = console.viewer()
        if viewer is None or not command.scopes <= viewer.scopes:
            button.disable()
            scopes = ", ".join(sorted(command.scopes))
            button.tooltip(f"needs a token with {scopes}")

    async def _start(self) -> None:
        viewer, command = self._console.viewer(), self._command
        context = self._console.context
        if viewer is None:
            return
        try:
            given = self._form.values()
            arguments = command.arguments.model_validate(given)

            def begin() -> None:
                start(
                    context,
                    viewer,
                    command,
                    checked(context, viewer, arguments, given),
                    new_message_id(),
                )

            await asyncio.to_thread(begin)
        except ValidationError as error:
            self._say(explain(error))
        except Problem as problem:
            faults = [f"{fault.pointer}: {fault.detail}" for fault in problem.errors]
            self._say("; ".join([problem.detail, *faults]))
        except (FieldFault, MeshError) as error:
            self._say(str(error))
        else:
            self._say("")
            logger.info("%s started %s on the console", viewer.name, command.name)
            ui.notify(f"{command.name} waits for a worker.", type="positive")

    def _say(self, fault: str) -> None:
        self._fault.set_content(bad(fault, "mesh-wrap"))


def _workers(console: Console) -> str:
    """Every known worker: its state, its queues, its last batch."""
    snapshot = console.watch.snapshot
    seen = {each.name: each for each in console.watch.seen.workers}
    answers = {each.name: each for each in console.watch.answers}
    rows = []
    for name in sorted({*seen, *answers}):
        worker, answer = seen.get(name), answers.get(name)
        if worker and not worker.online:
            state = "<span class='mesh-bad'>stopped</span>"
        elif answer:
            state = "<span class='mesh-good'>answers</span>"
        else:
            silent = span_text(time.time() - worker.heard_at) if worker else "?"
            state = f"busy, or away: heard of {silent} ago"
        last = worker.last_batch if worker else None
        rows.append(
            (
                text(name),
                state,
                text(", ".join(answer.consuming)) if answer else "",
                bad(answer.faults) if answer else "",
                _batch_line(last) if last else "",
            )
        )
    head = ("worker", "state", "consumes", "open circuits", "last batch")
    found = table("Workers", head, rows)
    if rows:
        return found
    faults = snapshot.faults if snapshot and not snapshot.queues else ()
    return f"{found}<p>{text('; '.join(faults) or 'No worker is heard of.')}</p>"


def _outcomes(console: Console) -> str:
    seen = console.watch.seen
    if not seen.outcomes:
        return ""
    rows = [
        (text(queue), *(f"{counts.get(kind, 0):,}" for kind in _OUTCOMES))
        for queue, counts in sorted(seen.outcomes.items())
    ]
    head = ("queue or command", *_OUTCOMES)
    return table("Batches since the pages are looked at", head, rows, _OUTCOMES)


def _batches(console: Console) -> str:
    seen = console.watch.seen
    if not seen.last_batches:
        return ""
    rows = [
        (
            moment(batch.finished_at),
            text(batch.queue),
            _batch_line(batch),
            text(batch.worker),
        )
        for batch in reversed(seen.last_batches)
    ]
    return table("The last of them", ("at", "of", "outcome", "worker"), rows, of=1)


def _batch_line(batch: BatchEvent) -> str:
    took = batch.runtime_seconds
    runtime = f" in {took:.3f} s" if took is not None else ""
    kind = "mesh-bad" if batch.failed else ""
    return (
        f"<span class='{kind} mesh-wrap'>{text(batch.outcome)}{runtime}: "
        f"{text(clip(batch.result, _CHARS))}</span>"
    )


def _tasks(console: Console, viewer: Client) -> str:
    """The latest commands: those of the viewer, or with ``operate`` those of all."""
    client = None if "operate" in viewer.scopes else viewer.name
    try:
        tasks = console.context.store.latest(_TASKS, client)
    except MeshError as error:
        return bad(error)
    if not tasks:
        return ""
    rows = [
        (
            moment(task.submitted_at),
            text(task.name),
            text(task.client),
            _task_state(task),
        )
        for task in tasks
    ]
    head = ("at", "command", "of", "outcome")
    return table("Commands that were started", head, rows, of=1)


def _task_state(task: Task) -> str:
    state = text(task.state.lower())
    if task.error is not None:
        kind = "mesh-bad" if task.state != "RETRY" else ""
        error = text(clip(task.error, _CHARS))
        return f"<span class='{kind} mesh-wrap'>{state}: {error}</span>"
    if task.result is None:
        return state
    result = json.dumps(task.result, ensure_ascii=False)
    return f"{state} <code class='mesh-wrap'>{text(clip(result, _CHARS))}</code>"
