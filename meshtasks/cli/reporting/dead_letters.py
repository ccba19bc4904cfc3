"""Why messages died, from the dead-letter queue."""

from __future__ import annotations

import re
import time
from collections import defaultdict

from meshtasks.cli.reporting.facts import DeadLetters, DeadReason
from meshtasks.cli.view.sightings import dead_letter_of
from meshtasks.cli.view.snapshot import DeadLetter
from meshtasks.domain.errors import ConfigError, Transient
from meshtasks.messaging.peek import peek

#: Looked at: so many at most. It takes a few seconds.
_LIMIT = 10_000

#: What differs between reasons that say the same.
_DETAILS = re.compile(r'"[^"]*"|\d[\d.,:TZ+-]*|[-+]\d+')


def dead_letters_in(url: str, queue: str) -> DeadLetters:
    """What the dead-letter queue holds, which is left as it is.

    A broker that cannot be asked is told of in the result: the rest of the report
    does not need it.

    Args:
        url: AMQP URL.
        queue: name of the dead-letter queue.
    """
    try:
        total, seen = peek(url, queue, _LIMIT)
    except (Transient, ConfigError) as error:
        return DeadLetters(fault=str(error))
    now = time.time()
    letters = [dead_letter_of(each.headers, each.routing_key, now) for each in seen]
    return DeadLetters(total, len(letters), _by_reason(letters))


def _by_reason(letters: list[DeadLetter]) -> tuple[DeadReason, ...]:
    groups: dict[tuple[str, str], list[DeadLetter]] = defaultdict(list)
    for letter in letters:
        groups[letter.error_type, _DETAILS.sub("…", letter.reason)].append(letter)
    reasons = [
        DeadReason(
            len(group),
            error_type,
            group[-1].reason,
            tuple(sorted({letter.routing_key for letter in group})),
        )
        for (error_type, _), group in groups.items()
    ]
    return tuple(sorted(reasons, key=lambda each: (-each.count, each.example)))
