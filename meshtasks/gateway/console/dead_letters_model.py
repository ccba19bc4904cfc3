"""The dead letters for all pages, and the actions on them. One action runs at a time,
because others cannot peek the queue meanwhile."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

from typing_extensions import override

from meshtasks.amqp.dead_letter_groups import Selection
from meshtasks.amqp.dead_letters import DeadLetter, dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import HeldMessages, QueueBusy, peek
from meshtasks.amqp.replay import Refusal, Replay, Replayed, ReplayPlan, drop
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.errors import MeshError
from meshtasks.observation.dead_letters import (
    WaitingDeadLetter,
    WaitingDeadLetters,
    to_line,
    waiting_dead_letters,
)

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
#: Dead letters that are shown of each cause.
_EXAMPLES = 25
#: Size of the chunks of an export, bytes.
_CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class DeadLetterJob:
    """An action that runs.

    Attributes:
        what: the action, as the beginning of a sentence.
        done: dead letters that were processed.
        total: all dead letters in the queue.
        note: the result so far.
        is_brief: whether other actions wait for it; if false, they are refused.
        stopping: ends the action when set; the dead letters are requeued as usual.
    """

    what: str
    done: int = 0
    total: int = 0
    note: str = ""
    is_brief: bool = True
    stopping: threading.Event = field(default_factory=threading.Event)

    def progress(self, held: HeldMessages) -> None:
        """Update the progress."""
        self.done, self.total = held.seen, held.total

    @override
    def __str__(self) -> str:
        far = f": {self.done:,} of {self.total:,}" if self.total else ""
        return f"{self.what}{far}{', ' if self.note else ''}{self.note} …"


class DeadLettersModel:
    """The dead letters, read once for all pages.

    Args:
        settings: settings with the console's own broker account.
        refusal: returns why a dead letter would fail again, or None.

    Attributes:
        waiting: the dead letters of the last successful read; None before it.
        job: the current action; None if there is none.
        fault: why the last read failed; empty if it succeeded.
    """

    def __init__(self, settings: Settings, refusal: Refusal) -> None:
        self.waiting: WaitingDeadLetters | None = None
        self.job: DeadLetterJob | None = None
        self.fault = ""
        self._topology = settings.read(TOPOLOGY)
        self._url = settings.env.amqp_url
        self._queue = self._topology.dead_letter_queue
        self._refusal = refusal
        self._lock = asyncio.Lock()

    def stop(self) -> None:
        """End the current action; the dead letters are requeued as usual."""
        if self.job:
            self.job.stopping.set()

    async def look(self) -> None:
        """Read the dead letters, unless an action runs. A failure sets
        :attr:`fault`."""
        if self.job is not None:
            return
        try:
            self.waiting = await self._do(
                DeadLetterJob("Looking"),
                lambda job: waiting_dead_letters(
                    self._url,
                    self._queue,
                    examples=_EXAMPLES,
                    stopping=job.stopping,
                    on_progress=job.progress,
                ),
            )
            self.fault = ""
        except MeshError as error:
            self.fault = str(error)

    async def some(
        self, selection: Selection, most: int = _EXAMPLES
    ) -> list[WaitingDeadLetter]:
        """The first selected dead letters with their messages; they stay in the queue.

        Raises:
            MeshError: the queue cannot be read now.
        """

        def look(job: DeadLetterJob) -> list[WaitingDeadLetter]:
            found: list[WaitingDeadLetter] = []
            for letter, delivery in self._each(job):
                if selection.matches(letter):
                    found.append(WaitingDeadLetter(letter, delivery))
                    if len(found) == most:
                        job.stopping.set()
            return found

        return await self._do(DeadLetterJob("Looking"), look)

    async def plan(self, selection: Selection, *, checked: bool) -> Replayed:
        """What a replay would do.

        Args:
            selection: the dead letters.
            checked: only those that would succeed.

        Raises:
            MeshError: the queue cannot be read now.
        """
        refusal = self._refusal if checked else None
        plan = ReplayPlan(selection, self._topology, refusal)

        def look(job: DeadLetterJob) -> Replayed:
            for letter, delivery in self._each(job):
                plan.add(delivery, letter)
            return plan.result(self._url)

        return await self._do(DeadLetterJob("Looking what a replay would do"), look)

    async def replay(
        self,
        selection: Selection,
        *,
        who: str,
        checked: bool = False,
        rate: float | None = None,
        edited: Mapping[str, bytes] | None = None,
    ) -> Replayed:
        """Replay dead letters, then read the queue again.

        Args:
            selection: the dead letters.
            who: name of the client, for the log.
            checked: only those that would succeed.
            rate: messages per second at most; None for no limit.
            edited: bodies to send in place of the original ones, by id.

        Raises:
            MeshError: the broker is unavailable, or another client reads the queue.
        """
        job = DeadLetterJob("Replaying", is_brief=False)

        def show(result: Replayed, held: HeldMessages) -> None:
            job.progress(held)
            again = result.failed_again.total()
            job.note = f"{result.requeued.total():,} requeued"
            job.note += f", {again:,} failed again" * bool(again)

        replay = Replay(
            self._url,
            self._queue,
            selection,
            self._topology,
            rate=rate,
            edited=edited,
            refusal=self._refusal if checked else None,
            stopping=job.stopping,
            on_progress=show,
        )
        try:
            return await self._do(job, lambda _: replay.run())
        finally:
            count = replay.result.requeued.total()
            logger.info("%s replayed %d dead letters on the console", who, count)
            await self.look()

    async def drop(self, selection: Selection, *, who: str) -> int:
        """Delete dead letters, then read the queue again. Return their number.

        Raises:
            MeshError: the queue cannot be read now.
        """
        dropped = await self._do(
            DeadLetterJob("Deleting"),
            lambda job: drop(self._url, self._queue, selection.matches, job.stopping),
        )
        logger.info("%s dropped %d dead letters on the console", who, dropped)
        await self.look()
        return dropped

    def lines(self, selection: Selection) -> Iterator[bytes]:
        """Dead letters in chunks of lines, as ``meshtasks dlq export`` writes them.

        Raises:
            MeshError: the queue cannot be read now.
        """
        chunk = bytearray()
        with closing(self._each(DeadLetterJob("Exporting"))) as letters:
            for letter, delivery in letters:
                if selection.matches(letter):
                    chunk += to_line(delivery, letter) + b"\n"
                    if len(chunk) > _CHUNK_BYTES:
                        yield bytes(chunk)
                        chunk.clear()
        yield bytes(chunk)

    def _each(self, job: DeadLetterJob) -> Generator[tuple[DeadLetter, Delivery]]:
        """All dead letters; they stay in the queue.

        Raises:
            MeshError: the queue cannot be read now.
        """
        with peek(self._url, self._queue, stopping=job.stopping) as held:
            for delivery in held:
                yield dead_letter_of(delivery), delivery
                job.progress(held)

    async def _do(self, job: DeadLetterJob, work: Callable[[DeadLetterJob], _T]) -> _T:
        """Run an action in a thread.

        Raises:
            QueueBusy: an action runs that is not brief.
            MeshError: the action failed.
        """
        if self.job is not None and not self.job.is_brief:
            message = f"not now: {self.job}"
            raise QueueBusy(message)
        async with self._lock:
            self.job = job
            try:
                return await asyncio.to_thread(work, job)
            finally:
                self.job = None
