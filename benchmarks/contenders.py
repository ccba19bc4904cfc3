"""Who takes part, what each is given and how it is started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT, load
from benchmarks.load import Reading
from benchmarks.services import Space
from meshtasks.amqp.publisher import Outgoing
from meshtasks.demo.packages import ensure_venv
from meshtasks.demo.process import Process
from meshtasks.flows.archive.objects import decompress

Encode = Callable[[Iterable[Reading]], Iterator[Outgoing]]

SENSOR_QUEUE = "sensors.temperature"
METRICS_QUEUE = "metrics.system"
ARCHIVE_QUEUE = "archive.metrics"


@dataclass(frozen=True, slots=True)
class Kept:
    """What was found.

    Attributes:
        records: how many.
        raw_bytes: of the archive's lines.
        stored_bytes: of the archive's compressed objects.
    """

    records: int
    raw_bytes: int = 0
    stored_bytes: int = 0


def temperatures(space: Space) -> Kept:
    """Distinct points of readings in the time-series store."""
    return Kept(space.points())


def metrics(space: Space) -> Kept:
    """Distinct points of metrics in the time-series store."""
    return Kept(space.points("room_celsius"))


def archived(space: Space) -> Kept:
    """Lines in the archive, and what they take."""
    records = raw_bytes = stored_bytes = 0
    for path in sorted(space.archive.rglob("*.jsonl.zst")):
        content = path.read_bytes()
        lines = decompress(content)
        records += lines.count(b"\n")
        raw_bytes += len(lines)
        stored_bytes += len(content)
    return Kept(records, raw_bytes, stored_bytes)


def ensure_peer(peer: str) -> Path:
    """The directory of a peer's programs, installed if need be.

    Args:
        peer: name in ``requirements-<peer>.txt``.

    Raises:
        InstallFailed: venv or pip failed; the text carries the end of its output.
    """
    requirements = Path(__file__).with_name(f"requirements-{peer}.txt")
    venv = ROOT / ".mesh" / "venvs" / f"bench-{peer}"
    ensure_venv(venv, requirements, f"{peer}, to compare with", hashed=False)
    return venv / "bin"


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
        kept: what it has stored, and where; None for what stores nothing.
        plain: rules and archive are off.
        part: the table that its row is in.
        ceiling: name of the row that it is compared with.
        multiple: its messages are a multiple of this, and four times as many at
            least: a batch that does not fill up would wait for its age.
    """

    name: str
    title: str
    command: str
    peer: str | None = None
    queue: str = SENSOR_QUEUE
    encode: Encode = load.single
    array_readings: int = 1
    kept: Callable[[Space], Kept] | None = temperatures
    plain: bool = False
    part: str = "throughput"
    ceiling: str = "bare"
    multiple: int = 1

    def prepared(self) -> list[str]:
        """Its command line; its environment is made if need be.

        Raises:
            InstallFailed: the environment could not be made.
        """
        own = Path(sys.executable).parent
        directory = own if self.peer is None else ensure_peer(self.peer)
        return [part.format(bin=directory) for part in self.command.split()]

    def process(self, space: Space) -> Process:
        """Its program in a space, not started yet. Raises the same as
        :meth:`prepared`."""
        return Process(
            self.name,
            self.prepared(),
            log_path=space.directory / f"{self.name}.log",
            env=space.environment(plain=self.plain),
            cwd=ROOT,
        )

    def share(self, messages: int) -> int:
        """Messages it is given where the others are given so many.

        Arrays of a hundred: a tenth of the messages, ten times the readings.
        """
        if self.array_readings > 1:
            messages //= 10
        return max(4, -(-messages // self.multiple)) * self.multiple


_BARE = "{bin}/python -m benchmarks.peers.bare "
_WORKER_OF = "{bin}/python -m celery -A meshtasks worker -c 1 -Q "
_WORKER = _WORKER_OF + SENSOR_QUEUE

FRAMES = Contender(
    "frames",
    "frames read, nothing decoded",
    "{bin}/python -m benchmarks.peers.frames " + SENSOR_QUEUE,
    kept=None,
)
BARE = Contender(
    "bare",
    "py-amqp, acks only",
    _BARE + SENSOR_QUEUE,
    kept=None,
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

BARE_METRICS = Contender(
    "bare-metrics",
    "bare consumer",
    _BARE + METRICS_QUEUE,
    queue=METRICS_QUEUE,
    encode=load.metrics,
    kept=None,
    part="metrics",
    ceiling="bare-metrics",
)
METRICS = Contender(
    "metrics",
    "meshtasks",
    _WORKER_OF + METRICS_QUEUE,
    queue=METRICS_QUEUE,
    encode=load.metrics,
    kept=metrics,
    part="metrics",
    ceiling="bare-metrics",
)
BARE_ARCHIVE = Contender(
    "bare-archive",
    "bare consumer",
    _BARE + ARCHIVE_QUEUE,
    queue=ARCHIVE_QUEUE,
    encode=load.archived,
    kept=None,
    part="archive",
    ceiling="bare-archive",
    multiple=5_000,
)
ARCHIVE = Contender(
    "archive",
    "meshtasks",
    _WORKER_OF + ARCHIVE_QUEUE,
    queue=ARCHIVE_QUEUE,
    encode=load.archived,
    kept=archived,
    part="archive",
    ceiling="bare-archive",
    multiple=5_000,
)

CONTENDERS = (
    FRAMES,
    BARE,
    CELERY,
    CELERY_BATCHES,
    FASTSTREAM,
    MESHTASKS,
    MESHTASKS_PLAIN,
    ARRAYS,
    ARRAYS_PLAIN,
    BARE_METRICS,
    METRICS,
    BARE_ARCHIVE,
    ARCHIVE,
)
