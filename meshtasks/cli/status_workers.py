"""Asks the workers which sinks are down: nobody else knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from celery import Celery
from kombu.exceptions import OperationalError

from meshtasks.errors import Transient

_WAIT_SECONDS = 1.0


class WorkerAnswer(NamedTuple):
    """What a worker says of itself.

    Attributes:
        consuming: queues it asks for messages.
        resting: queues it does not, because a sink is down.
        down: sink → what it said last.
        half_open: those of them that a batch tries at the moment.
    """

    name: str
    consuming: tuple[str, ...]
    resting: tuple[str, ...]
    down: Mapping[str, str]
    half_open: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return self._asdict()


def ask_workers(url: str) -> list[WorkerAnswer]:
    """Ask all; takes a second. One that is too busy to answer is left out.

    Raises:
        Transient: the broker cannot be reached.
    """
    with Celery("meshtasks-status", broker=url, set_as_current=False) as app:
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
    """Each sink that is down, once, with the workers that found it so."""
    finders: dict[str, list[WorkerAnswer]] = {}
    for answer in answers:
        for sink in answer.down:
            finders.setdefault(sink, []).append(answer)
    return [_circuit_line(sink, finders[sink]) for sink in sorted(finders)]


def _circuit_line(sink: str, answers: Sequence[WorkerAnswer]) -> str:
    names = ", ".join(answer.name for answer in answers)
    queues = sorted({queue for answer in answers for queue in answer.resting})
    rest = f"{', '.join(queues) or 'no queue'} {'rest' if len(queues) > 1 else 'rests'}"
    tried = any(sink in answer.half_open for answer in answers)
    state = "is down and being tried" if tried else "is down"
    return f"{sink} {state} ({names}): {answers[0].down[sink]}; {rest}"


def _answers(replies: Iterable[Mapping[str, Any]]) -> Iterable[WorkerAnswer]:
    for reply in replies:
        for name, said in reply.items():
            if "down" in said:  # an older worker does not know the question
                yield WorkerAnswer(
                    name,
                    tuple(said["consuming"]),
                    tuple(said["resting"]),
                    said["down"],
                    tuple(said.get("half_open", ())),
                )
