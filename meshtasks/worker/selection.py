"""Which queues a worker may consume, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterable

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.errors import ConfigError
from meshtasks.text import clip, did_you_mean
from meshtasks.worker.mesh import Mesh


def consumable(mesh: Mesh) -> list[str]:
    """The domain queues that have a handler, and the commands queue."""
    topology = mesh.settings.read(TOPOLOGY)
    handled = [queue for queue in topology.domain_queues if queue in mesh.handlers]
    return [*handled, topology.commands_queue]


def unavailable_reason(mesh: Mesh, queue: str) -> str | None:
    """Why a worker cannot consume a queue; None if it can."""
    known = consumable(mesh)
    if queue in known:
        return None
    topology = mesh.settings.read(TOPOLOGY)
    if queue == topology.dead_letter_queue:
        return f"{queue} is read by people: meshtasks dlq list"
    if queue in {each.name for each in topology.all_queues}:
        return f"{queue} has no handler, and no worker consumes it"
    return f"there is no queue {clip(queue)}{did_you_mean(queue, known)}"


def selected(
    mesh: Mesh, include: Iterable[str] | None, exclude: Iterable[str] | None
) -> list[str]:
    """The queues that ``-Q`` and ``-X`` leave, each once.

    Args:
        mesh: of the worker.
        include: those of ``-Q``; None for all that can be consumed.
        exclude: those of ``-X``.

    Raises:
        ConfigError: one of them cannot be consumed, or none is left.
    """
    known = consumable(mesh)
    chosen = known if include is None else _names(include)
    for queue in chosen:
        if reason := unavailable_reason(mesh, queue):
            raise _fault("-Q", reason)
    left_out = _names(exclude or ())
    every = [*known, *mesh.settings.read(TOPOLOGY).domain_queues]
    for queue in left_out:
        if queue not in every:
            close = did_you_mean(queue, every)
            raise _fault("-X", f"there is no queue {clip(queue)}{close}")
    left = [queue for queue in chosen if queue not in left_out]
    if not left:
        option = "-X" if include is None else "-Q"
        raise _fault(option, "leaves no queue to consume")
    return left


def _names(given: Iterable[str]) -> list[str]:
    """Each once, in order, without what a stray comma leaves."""
    return [*dict.fromkeys(name.strip() for name in given if name.strip())]


def _fault(option: str, expected: str) -> ConfigError:
    return ConfigError("celery worker", option, expected)
