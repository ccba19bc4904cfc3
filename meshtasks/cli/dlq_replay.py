"""Running a replay of dead letters, or trying what it would do."""

from __future__ import annotations

import os
from collections.abc import Mapping

from meshtasks.cli.counting import counting
from meshtasks.cli.dlq_choice import DeadLetterQueue
from meshtasks.cli.failure import fail
from meshtasks.domain.deadletters import DeadLetter, Selection, obstacle_of
from meshtasks.domain.errors import Transient
from meshtasks.domain.topology import Topology
from meshtasks.messaging.browse import Sweep
from meshtasks.messaging.codec import Delivery
from meshtasks.messaging.connecting import missing_queues
from meshtasks.messaging.letters import route_back
from meshtasks.messaging.replay import Replay, Replayed, no_queue


def replay_selected(
    letters: DeadLetterQueue,
    selection: Selection,
    topology: Topology,
    rate: float | None,
    edited: Mapping[str, bytes] | None,
) -> Replayed:
    """Replay, with a progress bar.

    Raises:
        typer.Exit: the broker went away; what was done is said.
    """
    with counting("giving back") as bar:

        def show(result: Replayed, held: Sweep) -> None:
            said = f"{result.given_back.total():,} given back"
            bar.update(held.seen, held.total, said)

        run = Replay(
            letters.url,
            letters.name,
            selection,
            obstacle=lambda letter: obstacle_of(letter, topology),
            rate=rate,
            edited=edited,
            stopping=letters.stopping,
            on_progress=show,
        )
        try:
            return run.run()
        except Transient as error:
            done = run.result.given_back.total()
            fail(
                f"{error}. {done:,} letters were given back, perhaps a few more; all "
                "others are dead letters still. The same command goes on.",
                os.EX_UNAVAILABLE,
            )


def dry_run(
    letters: DeadLetterQueue, selection: Selection, topology: Topology
) -> Replayed:
    """What a replay would do now."""
    result = Replayed()
    queues: set[str] = set()

    def look_at(_delivery: Delivery, letter: DeadLetter) -> None:
        result.looked_at += 1
        if not selection.takes(letter):
            return
        if obstacle := obstacle_of(letter, topology):
            result.kept[obstacle] += 1
            return
        if letter.queue is not None:
            queues.add(letter.queue)
        exchange, key = route_back(letter)
        result.given_back[exchange or key] += 1

    letters.look("looking", look_at)
    for name in missing_queues(letters.url, queues):
        result.kept[no_queue(("", name))] += result.given_back.pop(name)
    return result
