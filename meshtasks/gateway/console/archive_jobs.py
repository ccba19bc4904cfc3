"""Verify and replay the archive. A job continues while pages are opened and closed;
every open page of the archive shows its progress and can end it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta

from nicegui import ui

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.durations import moment_of
from meshtasks.errors import MeshError, Transient, Unroutable
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.archive.reading import Found, Period, objects_in
from meshtasks.gateway.console.frame import (
    NEEDS_OPERATE,
    Console,
    bad,
    html,
    notified,
    status,
    text,
)
from meshtasks.observation.archived import (
    ArchivedDay,
    ArchiveReplay,
    Router,
    Verified,
    checked,
)
from meshtasks.text import masked

logger = logging.getLogger(__name__)

#: Lines with findings that are kept.
_LINES = 200
_REFRESH_SECONDS = 0.5
_EVERYWHERE = "the queues they once reached"


class Job:
    """Work in a thread of its own.

    Args:
        name: what the job does, as the beginning of a sentence: ``Verifying``.
        who: name of the client that started it.
        work: does the work. It checks :attr:`stopping` regularly and reports its
            progress. A :class:`MeshError` that it raises becomes :attr:`fault`.

    Attributes:
        stopping: ends the work when set.
        done: objects that are done.
        total: all objects.
        note: a note about the progress.
        summary: the result, as a sentence.
        fault: why the job failed; empty if it did not.
        lines: the first findings.
        more_lines: number of further findings.
        ended_at: epoch seconds; None while the job runs.
    """

    def __init__(self, name: str, who: str, work: Callable[[Job], None]) -> None:
        self.name = name
        self.who = who
        self.stopping = threading.Event()
        self.ended_at: float | None = None
        self.done, self.total, self.note = 0, 0, ""
        self.lines: list[str] = []
        self.more_lines = 0
        self.summary = ""
        self.fault = ""
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        logger.info("%s, for %s on the console", self.name, self.who)
        self._thread.start()

    def stop(self) -> None:
        """Ask the work to end."""
        self.stopping.set()

    def wait(self, within_seconds: float) -> None:
        """Wait for the end of the thread, at most ``within_seconds``."""
        self._thread.join(within_seconds)

    def report(self, done: int, total: int, note: str = "") -> None:
        """Report the progress."""
        self.done, self.total, self.note = done, total, note

    def say(self, line: str) -> None:
        """Add a line about a finding."""
        if len(self.lines) < _LINES:
            self.lines.append(line)
        else:
            self.more_lines += 1

    @property
    def runs(self) -> bool:
        """Whether the job runs."""
        return self.ended_at is None

    def state(self) -> str:
        """The state of the job as a sentence."""
        if self.runs:
            ending = "is being ended" if self.stopping.is_set() else "under way"
            note = f", {self.note}" * bool(self.note)
            return (
                f"{self.name}: {ending}, {self.done:,} of {self.total:,} objects{note} "
                f"(started by {self.who})"
            )
        if self.fault:
            return f"{self.name} failed: {self.fault}"
        how = "was ended" if self.stopping.is_set() else "is done"
        return f"{self.name} {how}. {self.summary}"

    def _run(self) -> None:
        try:
            self._work(self)
        except MeshError as error:
            self.fault = masked(str(error))
        except Exception:
            self.fault = "a fault of the gateway; its log says more"
            logger.exception("%s failed", self.name)
        finally:
            self.ended_at = time.time()
            logger.info("%s", self.state())


class Jobs:
    """Runs one job at a time and keeps the last one."""

    def __init__(self) -> None:
        self.last: Job | None = None
        self._lock = threading.Lock()

    def start(self, job: Job) -> Job | None:
        """Start a job. If another job runs, return that job instead."""
        with self._lock:
            if self.last is not None and self.last.runs:
                return self.last
            self.last = job
        job.start()
        return None

    def stop(self, within_seconds: float = 5.0) -> None:
        """End the current job and wait for it, at most ``within_seconds``."""
        if self.last is not None and self.last.runs:
            self.last.stop()
            self.last.wait(within_seconds)


#: Number of objects and of their records, by domain and date.
Records = dict[tuple[str, date], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The options of a verification or replay."""

    period: Period
    domains: tuple[str, ...]
    to_queue: str
    rate: float | None
    with_effects: bool
    even_if_dropped: bool


class ArchiveJobs:
    """The part of the page that verifies and replays the archive.

    Args:
        console: the shared objects.
        jobs: the jobs of all pages.
        records: counted records are added here.
        changed: called when a job has ended: more records may be counted.
    """

    def __init__(
        self,
        console: Console,
        jobs: Jobs,
        records: Records,
        changed: Callable[[], None],
    ) -> None:
        self._console = console
        self._jobs = jobs
        self._records = records
        self._changed = changed
        self._shown: tuple[object, ...] = ()
        self._planned: _Wanted | None = None
        topology = console.settings.read(TOPOLOGY)
        with ui.element("section").classes("mesh-card w-full"):
            html("<h2>Verify and replay</h2>")
            with ui.row().classes("items-center w-full"):
                self._start = ui.input("From", placeholder="2026-11-20 or 7d")
                self._end = ui.input("To (not included)", placeholder="now")
                self._domains = ui.select([], multiple=True, label="Domains (all)")
                self._domains.classes("w-48")
            with ui.row().classes("items-center w-full"):
                self._queue = ui.select(
                    [_EVERYWHERE, *topology.domain_queues],
                    value=_EVERYWHERE,
                    label="Replay to",
                ).classes("w-64")
                self._rate = ui.number("Records a second, at most", min=0.1)
                self._effects = ui.switch("Send alerts and call webhooks again")
                self._dropped = ui.switch("Also what the time-series store would drop")
            with ui.row():
                console.button("Verify", self._verify)
                console.button("Dry run", self._dry_run)
                self._go = console.button("Replay", self._replay)
                self._cancel = console.button("End it", self._end_job)
            self._bar = ui.linear_progress(0, show_value=False)
            self._bar.props('aria-label="Progress"')
            self._state = status()
            self._found = html().classes("mesh-wrap")
        for field in (
            *(self._start, self._end, self._domains, self._queue, self._rate),
            *(self._effects, self._dropped),
        ):
            field.on_value_change(self._forget_plan)
        self._refresh()
        ui.timer(_REFRESH_SECONDS, self._refresh)

    def know(self, domains: Iterable[str]) -> None:
        """Set the domains that can be selected."""
        self._domains.set_options(list(domains))

    def choose(self, day: date) -> None:
        """Set the fields to the period of a day."""
        self._start.set_value(f"{day}T00:00+00:00")
        self._end.set_value(f"{day + timedelta(days=1)}T00:00+00:00")

    async def count(self, day: date, found: Mapping[str, ArchivedDay]) -> str:
        """Count the records of a day. Return the faults that were found, or empty."""
        env = self._console.settings.env
        start = moment_of(f"{day}T00:00+00:00", 0.0)
        period = Period(start, start + timedelta(days=1).total_seconds())

        def count() -> Verified:
            verified = Verified()
            with closing(open_store(env)) as store:
                objects = objects_in(store, period, list(found))
                of_day = [each for each in objects if each.parsed]
                for each, result in checked(store, of_day):
                    verified.add(each, result)
            self._note(of_day, verified.records)
            return verified

        try:
            verified: Verified = await asyncio.to_thread(count)
        except MeshError as error:
            return str(error)
        return "; ".join(f"{name}: {why}" for name, why in verified.faults.items())

    def _forget_plan(self) -> None:
        self._planned = None

    def _wanted(self) -> _Wanted | None:
        """The values of the fields; None if one of them is invalid."""
        now = time.time()
        start, end = self._start.value.strip(), self._end.value.strip()
        queue = self._queue.value
        with notified(ValueError):
            return _Wanted(
                Period(
                    moment_of(start, now) if start else -math.inf,
                    moment_of(end, now) if end else math.inf,
                ),
                tuple(self._domains.value or ()),
                "" if queue == _EVERYWHERE else str(queue),
                self._rate.value or None,
                bool(self._effects.value),
                bool(self._dropped.value),
            )
        return None

    def _begin(self, name: str, work: Callable[[Job], None]) -> None:
        viewer = self._console.operator()
        if viewer is None:
            ui.notify(NEEDS_OPERATE, type="negative")
            return
        other = self._jobs.start(Job(name, viewer.name, work))
        if other is not None:
            ui.notify(f"{other.name} is still under way", type="warning")

    def _verify(self) -> None:
        wanted = self._wanted()
        if wanted is not None:
            self._begin("Verifying", lambda job: self._do_verify(job, wanted))

    def _do_verify(self, job: Job, wanted: _Wanted) -> None:
        verified = Verified()
        with closing(open_store(self._console.settings.env)) as store:
            objects = objects_in(store, wanted.period, wanted.domains)
            job.report(0, len(objects))
            with closing(checked(store, objects)) as results:
                for found, result in results:
                    verified.add(found, result)
                    job.report(verified.objects, len(objects))
                    if result.fault:
                        job.say(f"{found.info.name}: {result.fault}")
                    if job.stopping.is_set():
                        break
        job.summary = verified.summary
        self._note((each for each in objects if each.parsed), verified.records)

    def _note(self, objects: Iterable[Found], records: Counter[str]) -> None:
        """Add the counted records of every day and domain."""
        counts: dict[tuple[str, date], list[int]] = defaultdict(lambda: [0, 0])
        for found in objects:
            if found.parsed and found.info.name in records:
                count = counts[found.parsed.domain, found.parsed.day]
                count[0] += 1
                count[1] += records[found.info.name]
        self._records.update({key: (n, m) for key, (n, m) in counts.items()})

    def _dry_run(self) -> None:
        wanted = self._wanted()
        if wanted is None:
            return
        if wanted.period.start == -math.inf:
            ui.notify("From which moment on? Fill in From.", type="negative")
            return
        self._planned = wanted
        self._begin("Dry run", lambda job: self._send(job, wanted, dry=True))

    def _replay(self) -> None:
        planned, last = self._planned, self._jobs.last
        if planned is None or last is None or last.runs:
            ui.notify("Make a dry run first.", type="warning")
            return
        self._planned = None
        self._begin("Replaying", lambda job: self._send(job, planned, dry=False))

    def _send(self, job: Job, wanted: _Wanted, *, dry: bool) -> None:
        """Replay records, or count those that would be replayed.

        Raises:
            MeshError: the archive or the broker is unavailable.
        """
        settings = self._console.settings
        url = settings.env.amqp_url
        names = settings.read(TOPOLOGY).names_of(wanted.to_queue)
        if wanted.to_queue and missing_queues(url, names):
            job.fault = f"the broker has no queue {wanted.to_queue}"
            return
        with closing(open_store(settings.env)) as store:
            run = ArchiveReplay(
                store,
                wanted.period,
                Router(
                    settings, wanted.to_queue, even_if_dropped=wanted.even_if_dropped
                ),
                wanted.rate,
                job.stopping,
                quiet=not wanted.with_effects,
                dry=dry,
            )
            objects = objects_in(store, wanted.period, wanted.domains)
            job.report(0, len(objects))
            try:
                run.run(url, objects, job.report)
            except (Transient, Unroutable) as error:
                job.fault = f"{error}; {run.how_to_go_on}"
        for count, what in run.counts():
            job.say(f"{count:,} {what}")
        for fault in run.damaged:
            job.say(f"not sent: {fault}")
        sent = f"{run.sent.total():,} records"
        job.summary = f"{sent} would be sent." if dry else f"{sent} sent."
        if job.stopping.is_set() and not dry:
            job.summary = f"{run.how_to_go_on}."

    def _end_job(self) -> None:
        job = self._jobs.last
        if job is not None and job.runs and self._console.may_operate():
            job.stop()

    def _refresh(self) -> None:
        job = self._jobs.last
        runs = job is not None and job.runs
        self._cancel.set_visibility(runs)
        self._bar.set_visibility(runs)
        self._go.set_visibility(self._planned is not None and not runs)
        if job is None:
            return
        now: tuple[object, ...] = (
            *(job, job.done, job.total, job.note, len(job.lines), job.ended_at),
            job.stopping.is_set(),
        )
        if now == self._shown:
            return
        ended = self._shown and not runs
        self._shown = now
        self._bar.set_value(job.done / job.total if job.total else 0)
        self._state.set_content(bad(job.state()) if job.fault else text(job.state()))
        more = f"<li>and {job.more_lines:,} more</li>" if job.more_lines else ""
        lines = "".join(f"<li>{text(line)}</li>" for line in job.lines)
        self._found.set_content(f"<ul>{lines}{more}</ul>" if lines else "")
        if ended:
            self._changed()
