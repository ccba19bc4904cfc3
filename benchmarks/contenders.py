"""Who takes part, what each is given and how it is started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.environments import ensure_peer
from benchmarks.load import Reading
from meshtasks.messaging.publisher import Outgoing

Encode = Callable[[Iterable[Reading]], Iterator[Outgoing]]

SENSOR_QUEUE = "sensors.temperature"


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table.

    Attributes:
        name: for ``--only``.
        title: what it is, in the table.
        command: its program; ``{bin}`` stands for its environment's programs.
        peer: its environment, ``requirements-<peer>.txt``; None for our own.
        queue: the queue it consumes.
        encode: makes its messages of readings.
        array_readings: readings in each message.
        stores: it writes the readings to the store.
        plain: rules and archive are off.
    """

    name: str
    title: str
    command: str
    peer: str | None = None
    queue: str = SENSOR_QUEUE
    encode: Encode = load.single
    array_readings: int = 1
    stores: bool = True
    plain: bool = False

    def prepared(self, say: Callable[[str], None]) -> list[str]:
        """Its command line; its environment is made if need be.

        Raises:
            InstallFailedError: the environment could not be made.
        """
        own = Path(sys.executable).parent
        directory = own if self.peer is None else ensure_peer(self.peer, say)
        return [part.format(bin=directory) for part in self.command.split()]

    @property
    def messages_scale(self) -> float:
        """Messages it is given for every message that the others are given.

        Arrays of a hundred: a tenth of the messages, ten times the readings.
        """
        return 1.0 if self.array_readings == 1 else 0.1


_WORKER = f"{{bin}}/python -m celery -A meshtasks worker -c 1 -Q {SENSOR_QUEUE}"

BARE = Contender(
    "bare",
    "bare consumer, acks only",
    f"{{bin}}/python -m benchmarks.peers.bare {SENSOR_QUEUE}",
    stores=False,
)
CELERY = Contender(
    "celery",
    "Celery, a task each",
    "{bin}/python -m celery -A benchmarks.peers.celery_single worker -c 1",
    peer="celery",
    queue=load.CELERY_QUEUE,
    encode=load.celery_calls,
)
CELERY_BATCHES = Contender(
    "celery-batches",
    "celery-batches, 2,000 a task",
    "{bin}/python -m celery -A benchmarks.peers.celery_batched worker -c 1",
    peer="celery-batches",
    queue=load.CELERY_QUEUE,
    encode=load.celery_calls,
)
FASTSTREAM = Contender(
    "faststream",
    "FastStream, a call each",
    "{bin}/python -m faststream run benchmarks.peers.faststream_single:app",
    peer="faststream",
)
MESHTASKS = Contender("meshtasks", "meshtasks", _WORKER)
MESHTASKS_PLAIN = Contender(
    "meshtasks-plain", "  no rules, no archive", _WORKER, plain=True
)
ARRAYS = Contender(
    "arrays",
    "meshtasks, arrays of 100",
    _WORKER,
    encode=load.arrays,
    array_readings=load.ARRAY_READINGS,
)
ARRAYS_PLAIN = Contender(
    "arrays-plain",
    "  no rules, no archive",
    _WORKER,
    encode=load.arrays,
    array_readings=load.ARRAY_READINGS,
    plain=True,
)

CONTENDERS = (
    BARE,
    CELERY,
    CELERY_BATCHES,
    FASTSTREAM,
    MESHTASKS,
    MESHTASKS_PLAIN,
    ARRAYS,
    ARRAYS_PLAIN,
)
