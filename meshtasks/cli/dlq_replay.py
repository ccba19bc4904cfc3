"""Running a replay of dead letters, or trying what it would do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

from meshtasks.amqp.connecting import missing_queues
from meshtasks.amqp.dead_letters import DeadLetter, Selection, requeue_targets
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import HeldMessages
from meshtasks.amqp.replay import Replay, Replayed, no_queue
from meshtasks.amqp.topology import Topology
from meshtasks.cli.dlq_choice import DeadLetterQueue
from meshtasks.cli.terminal import counting, fail
from meshtasks.errors import Transient


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

        def show(result: Replayed, held: HeldMessages) -> None:
            said = f"{result.requeued.total():,} given back"
            bar.update(held.seen, held.total, said)

        run = Replay(
            letters.url,
            letters.name,
            selection,
            lambda letter: requeue_targets(letter, topology),
            rate=rate,
            edited=edited,
            stopping=letters.stopping,
            on_progress=show,
        )
        try:
            return run.run()
        except Transient as error:
            done = run.result.requeued.total()
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
    ways: Counter[tuple[str, ...]] = Counter()

    def look_at(_delivery: Delivery, letter: DeadLetter) -> None:
        result.looked_at += 1
        if not selection.matches(letter):
            return
        way = requeue_targets(letter, topology)
        if isinstance(way, str):
            result.kept[way] += 1
        else:
            ways[way] += 1

    letters.look("looking", look_at)
    missing = set(missing_queues(letters.url, {queue for way in ways for queue in way}))
    for way, count in ways.items():
        if absent := missing.intersection(way):
            result.kept[no_queue(min(absent))] += count
        else:
            result.requeued[", ".join(way)] += count
    return result
