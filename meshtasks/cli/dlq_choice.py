"""Which dead letters a command is about: its options, and a look at the queue."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

import typer

from meshtasks.amqp.dead_letters import ID_DIGITS, DeadLetter, Selection, dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import peek
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import (
    EXIT_INTERRUPTED,
    counting,
    fail,
    say,
    stopping_on_signals,
)
from meshtasks.config.durations import seconds_of
from meshtasks.config.settings import Settings

EXIT_NOT_FOUND = 1
#: The bar moves so often: every so many letters.
_STEP = 500
_ID = re.compile(rf"[0-9a-f]{{4,{ID_DIGITS}}}")

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", help="Ids of dead letters; beginnings will do."),
]
Reason = Annotated[
    str,
    typer.Option(
        metavar="TEXT",
        help="Those that died of this: a kind (SchemaMismatch), or part of the reason.",
    ),
]
Queue = Annotated[
    str,
    typer.Option(metavar="NAME", help="Those that died in this queue; sensors.* too."),
]
RoutingKey = Annotated[
    str,
    typer.Option(
        metavar="PATTERN",
        help="Those published with such a key; as in a binding: sensors.*.attic.",
    ),
]
Sensor = Annotated[
    str, typer.Option(metavar="NAME", help="Those of this sensor; attic-* too.")
]
OlderThan = Annotated[
    str, typer.Option(metavar="TIME", help="Those that died longer ago: 2h, 7d.")
]
NewerThan = Annotated[
    str, typer.Option(metavar="TIME", help="Those that died since then: 30m, 1d.")
]
Every = Annotated[bool, typer.Option("--all", help="All of them.")]


class DeadLetterQueue(NamedTuple):
    """The queue, and how to stop looking at it."""

    url: str
    name: str
    stopping: threading.Event

    def look(self, what: str, on_letter: Callable[[Delivery, DeadLetter], None]) -> int:
        """Show every letter of the queue to a function, with a progress bar.

        Returns:
            How many there are.

        Raises:
            typer.Exit: it was interrupted.
        """
        with (
            counting(what) as bar,
            peek(self.url, self.name, stopping=self.stopping) as held,
        ):
            for delivery in held:
                on_letter(delivery, dead_letter_of(delivery))
                if held.seen % _STEP == 0:
                    bar.update(held.seen, held.total)
        self.exit_if_stopped()
        if held.missing:
            told = f"{held.missing:,} letters were not seen: somebody else has them"
            say(told, err=True)
        return held.seen

    def exit_if_stopped(self, said: str = "nothing was changed") -> None:
        """End the command if it was interrupted.

        Raises:
            typer.Exit: it was.
        """
        if self.stopping.is_set():
            fail(f"interrupted; {said}", EXIT_INTERRUPTED)


class Found(NamedTuple):
    """A letter that was asked for by its id.

    Attributes:
        alike: how many there are that say the same in every respect.
    """

    delivery: Delivery
    letter: DeadLetter
    alike: int


@contextmanager
def opened(settings: Settings, queue: str = "") -> Iterator[DeadLetterQueue]:
    """The mesh's dead-letter queue; Ctrl-C ends looking at it in good order.

    Args:
        queue: whose letters are meant; one that is not known is told.
    """
    names = [each.name for each in settings.read(TOPOLOGY).all_queues]
    if queue and not any(fnmatchcase(name, queue) for name in names):
        alike = get_close_matches(queue, names, 1)
        meant = f"; did you mean {alike[0]}?" if alike else ""
        say(f"topology.yaml has no queue {queue}{meant}", err=True)
    with stopping_on_signals() as stopping:
        yield DeadLetterQueue(
            settings.env.amqp_url, settings.read(TOPOLOGY).dead_letter_queue, stopping
        )


def find(letters: DeadLetterQueue, beginnings: Sequence[str]) -> list[Found]:
    """The letters with these ids.

    Raises:
        typer.Exit: there is none, or an id could be that of several.
    """
    found: dict[str, Found] = {}
    wanted = Selection(ids=_ids(beginnings))

    def look_at(delivery: Delivery, letter: DeadLetter) -> None:
        if wanted.matches(letter):
            alike = found[letter.id].alike if letter.id in found else 0
            found[letter.id] = Found(delivery, letter, alike + 1)

    letters.look("looking for it", look_at)
    for beginning in beginnings:
        fitting = sorted(name for name in found if name.startswith(beginning))
        if not fitting:
            fail(
                f"no dead letter has an id that begins with {beginning} "
                "(meshtasks dlq list --each shows ids)",
                EXIT_NOT_FOUND,
            )
        if len(fitting) > 1:
            message = f"{beginning} could be {fitting[0]} or {fitting[1]}; give more"
            fail(message, EXIT_NOT_FOUND)
    return list(found.values())


def selection_of(  # noqa: PLR0913 - options
    *,
    ids: Sequence[str] = (),
    reason: str = "",
    queue: str = "",
    routing_key: str = "",
    sensor: str = "",
    older_than: str = "",
    newer_than: str = "",
    every: bool = True,
) -> Selection:
    """The letters that the options mean.

    Raises:
        typer.BadParameter: an option cannot be read, or there are none.
    """
    chosen = (ids, reason, queue, routing_key, sensor, older_than, newer_than)
    if not (every or any(chosen)):
        message = (
            "which? Give ids, --reason, --queue, --routing-key, --sensor, "
            "--older-than, --newer-than or --all"
        )
        raise typer.BadParameter(message)
    now = time.time()
    return Selection(
        ids=_ids(ids),
        reason=reason,
        queue=queue,
        routing_key=routing_key,
        sensor=sensor,
        failed_before=_ago(now, older_than, "--older-than"),
        failed_after=_ago(now, newer_than, "--newer-than"),
    )


def _ids(texts: Sequence[str]) -> frozenset[str]:
    for text in texts:
        if not _ID.fullmatch(text):
            message = (
                f"{text!r} is no id of a dead letter, nor the beginning of one "
                f"(4 to {ID_DIGITS} hex digits)"
            )
            raise typer.BadParameter(message, param_hint="ID")
    return frozenset(texts)


def _ago(now: float, span: str, option: str) -> float | None:
    if not span:
        return None
    try:
        return now - seconds_of(span)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
