"""The state of the workers, by Celery's remote control, and what wants attention."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from kombu.exceptions import OperationalError

from meshtasks.errors import Transient
from meshtasks.observation.collect import Snapshot
from meshtasks.worker.broker import new_app

_ASK_SECONDS = 5.0
#: How long workers have to reply.
_WAIT_SECONDS = 1.0


class WorkerAnswer(NamedTuple):
    """The state of a worker.

    Attributes:
        consuming: queues that it consumes.
        resting: queues that are paused, because a circuit is open.
        down: sink → its last error.
        half_open: those of them that a batch is trying.
    """

    name: str
    consuming: tuple[str, ...]
    resting: tuple[str, ...]
    down: Mapping[str, str]
    half_open: tuple[str, ...] = ()

    @property
    def faults(self) -> str:
        """Why each sink is down, in a line."""
        return "; ".join(f"{sink}: {why}" for sink, why in self.down.items())


def ask_workers(url: str) -> list[WorkerAnswer]:
    """Ask all; takes a second. One that is too busy to answer is left out.

    Raises:
        Transient: the broker cannot be reached.
    """
    with new_app("meshtasks-status", url, set_as_current=False) as app:
        try:
            with app.connection_for_write() as connection:
                replies = app.control.broadcast(
                    "mesh_state",
                    reply=True,
                    timeout=_WAIT_SECONDS,
                    connection=connection,
                )
        except (OperationalError, OSError) as error:
            message = f"the workers cannot be asked: {error}"
            raise Transient(message) from error
    return sorted(_answers(replies or ()))


def circuit_lines(answers: Iterable[WorkerAnswer]) -> list[str]:
    """A line for each open circuit, with the workers that it is open in."""
    finders: dict[str, list[WorkerAnswer]] = {}
    for answer in answers:
        for sink in answer.down:
            finders.setdefault(sink, []).append(answer)
    return [_circuit_line(sink, finders[sink]) for sink in sorted(finders)]


def _circuit_line(sink: str, answers: Sequence[WorkerAnswer]) -> str:
    names = ", ".join(answer.name for answer in answers)
    queues = sorted({queue for answer in answers for queue in answer.resting})
    paused = f"{', '.join(queues) or 'no queue'} paused"
    tried = any(sink in answer.half_open for answer in answers)
    state = "half-open" if tried else "open"
    return f"{sink}: circuit {state} ({names}): {answers[0].down[sink]}; {paused}"


def _answers(replies: Iterable[Mapping[str, Any]]) -> Iterable[WorkerAnswer]:
    for reply in replies:
        for name, state in reply.items():
            if "down" in state:  # an older worker replies with an error
                yield WorkerAnswer(
                    name,
                    tuple(state["consuming"]),
                    tuple(state["resting"]),
                    state["down"],
                    tuple(state.get("half_open", ())),
                )


def attention(snapshot: Snapshot, answers: list[WorkerAnswer]) -> list[str]:
    """What needs attention; dead letters and retries are no part of it."""
    lines = [*snapshot.faults, *circuit_lines(answers)]
    rests = {queue for answer in answers for queue in answer.resting}
    lines += [
        f"{queue.ready:,} messages wait in {queue.name} and nobody consumes it"
        for queue in snapshot.queues
        if snapshot.is_waiting(queue) and queue.name not in rests
    ]
    return lines


class WorkerPoll:
    """Asks the workers every few seconds, in a thread of its own.

    Attributes:
        answers: the last ones; none while the broker is away.
    """

    def __init__(self, url: str) -> None:
        self.answers: list[WorkerAnswer] = []
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while True:
            try:
                self.answers = ask_workers(self._url)
            except Transient:
                self.answers = []  # the snapshot says that the broker is away
            if self._stopping.wait(_ASK_SECONDS):
                return
