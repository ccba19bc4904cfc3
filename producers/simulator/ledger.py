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
        self._messages = 0
        self._bad_messages: Counter[str] = Counter()
        self._good_records: Counter[str] = Counter()
        self._bad_records: Counter[str] = Counter()

    def confirm(self, batch: Sequence[Pending]) -> None:
        """Enter messages that the broker has stored."""
        with self._lock:
            for message, records in batch:
                self._messages += 1
                good = records
                domain_kind = ".".join(message.routing_key.split(".")[:2])
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
            wrong with them; ``good_records_by_kind`` and ``bad_records_by_kind``
            by the first two words of the routing key.
        """
        with self._lock:
            good, bad = self._good_records.total(), self._bad_records.total()
            return {
                "messages": self._messages,
                "records": good + bad,
                "good_records": good,
                "bad_records": bad,
                "bad_messages": dict(sorted(self._bad_messages.items())),
                "good_records_by_kind": dict(sorted(self._good_records.items())),
                "bad_records_by_kind": dict(sorted(self._bad_records.items())),
            }
