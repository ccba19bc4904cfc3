"""What was really published, so that a demo or test can balance its books."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from producers.buffer import Pending
from producers.simulator.badmessages import LABEL_HEADER, BadKind


class Ledger:
    """Counts the messages that the broker has confirmed, and what is in them.

    Written by the producer's thread, read by others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: Counter[str] = Counter()
        self._bad_messages: Counter[str] = Counter()
        self._good_records: Counter[str] = Counter()
        self._bad_records: Counter[str] = Counter()

    def confirm(self, batch: Sequence[Pending]) -> None:
        """Enter messages that the broker has stored."""
        with self._lock:
            for message, records in batch:
                good = records
                domain_kind = domain_kind_of(message.routing_key)
                self._messages[domain_kind] += 1
                label = (message.headers or {}).get(LABEL_HEADER)
                if label is not None:
                    kind = BadKind(str(label))
                    self._bad_messages[kind] += 1
                    self._bad_records[domain_kind] += kind.bad_records
                    good = kind.good_records
                self._good_records[domain_kind] += good

    def summary(self) -> dict[str, object]:
        """The books so far.

        Returns:
            ``messages``; ``records`` = ``good_records`` (to be stored) +
            ``bad_records`` (to be dead-lettered); ``bad_messages`` by what is
            wrong with them; ``messages_by_kind``, ``good_records_by_kind`` and
            ``bad_records_by_kind`` by :func:`domain_kind_of`.
        """
        with self._lock:
            good, bad = self._good_records.total(), self._bad_records.total()
            return {
                "messages": self._messages.total(),
                "records": good + bad,
                "good_records": good,
                "bad_records": bad,
                "bad_messages": dict(sorted(self._bad_messages.items())),
                "messages_by_kind": dict(sorted(self._messages.items())),
                "good_records_by_kind": dict(sorted(self._good_records.items())),
                "bad_records_by_kind": dict(sorted(self._bad_records.items())),
            }


#: What tells the kinds of domains apart whose routing keys do not begin with them:
#: the first word, a word at some place, and the kind.
_TOLD_BY = (
    ("home", -1, "state_changed", "home.events.state_changes"),
    ("home", -1, "trigger", "home.events.automations"),
    ("ai", 1, "model", "ai.inference.requests"),
    ("ai", 1, "result", "ai.inference.results"),
)


def domain_kind_of(routing_key: str) -> str:
    """What a message is counted as: the name of the queue it goes to, and for alerts,
    which go to two, ``alerts``."""
    words = routing_key.split(".")
    if words[0] == "alerts":
        return "alerts"
    for domain, place, word, kind in _TOLD_BY:
        if words[0] == domain and words[place] == word:
            return kind
    return ".".join(words[:2])
