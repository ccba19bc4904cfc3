"""Why messages died, from the dead-letter queue."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from meshtasks.amqp.dead_letters import DeadLetter, dead_letter_of, general_reason
from meshtasks.amqp.peek import peek
from meshtasks.cli.reporting.facts import DeadLetters, DeadReason
from meshtasks.cli.terminal import stopping_on_signals
from meshtasks.errors import ConfigError, Transient


def dead_letters_in(url: str, queue: str) -> DeadLetters:
    """What the dead-letter queue holds, which is left as it is.

    A broker that cannot be asked is told of in the result: the rest of the report
    does not need it.

    Args:
        url: AMQP URL.
        queue: name of the dead-letter queue.
    """
    groups: dict[tuple[str, str], _Group] = defaultdict(_Group)
    try:
        with (
            stopping_on_signals() as stopping,
            peek(url, queue, stopping=stopping) as held,
        ):
            for delivery in held:
                letter = dead_letter_of(delivery)
                groups[letter.kind, general_reason(letter.reason)].add(letter)
        if stopping.is_set():
            raise KeyboardInterrupt
    except (Transient, ConfigError) as error:
        return DeadLetters(fault=str(error))
    reasons = [
        DeadReason(group.count, kind, group.reason, tuple(sorted(group.routing_keys)))
        for (kind, _), group in groups.items()
    ]
    reasons.sort(key=lambda each: (-each.count, each.example))
    return DeadLetters(held.seen, tuple(reasons))


@dataclass(slots=True)
class _Group:
    count: int = 0
    reason: str = ""
    routing_keys: set[str] = field(default_factory=set)

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        self.reason = letter.reason
        self.routing_keys.add(letter.routing_key)
