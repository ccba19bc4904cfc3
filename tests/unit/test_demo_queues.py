"""What has passed through queues, by a broker's count that comes late."""

from __future__ import annotations

import pytest

from meshtasks.amqp.connecting import Depth
from meshtasks.amqp.management import QueueActivity
from meshtasks.demo.audit import QueueCounters
from meshtasks.demo.reconciliation import QueueCount
from meshtasks.observation.seen import Seen

QUEUE = "sensors.motion"


class Broker:
    """A collector whose broker counts on with every look at it."""

    def __init__(self, *counts: tuple[int, int]) -> None:
        self._counts = list(counts)
        self.looks = 0

    def activity(self) -> dict[str, QueueActivity]:
        came_in, acknowledged = self._counts[min(self.looks, len(self._counts) - 1)]
        self.looks += 1
        stats = {"publish": came_in, "ack": acknowledged}
        return {
            QUEUE: QueueActivity.model_validate({"name": QUEUE, "message_stats": stats})
        }

    def depths(self) -> dict[str, Depth]:
        return {QUEUE: Depth(0, 1)}

    def seen(self) -> Seen:
        return Seen(dead_messages={QUEUE: 1}) if self.looks > 1 else Seen()


def test_what_was_before_does_not_count() -> None:
    flows = QueueCounters(Broker((100, 90), (107, 97)), [QUEUE])  # type: ignore[arg-type]

    assert flows.now() == [QueueCount(QUEUE, came_in=7, acknowledged=7, dead=1)]


def test_it_waits_until_all_that_was_published_has_come_and_gone() -> None:
    broker = Broker((0, 0), (3, 3), (5, 4), (5, 5))
    flows = QueueCounters(broker, [QUEUE])  # type: ignore[arg-type]

    flows.wait_over([QUEUE], {QUEUE: 5}, within_seconds=30.0)

    assert flows.now()[0].is_over
    assert broker.looks == 5


@pytest.mark.parametrize("counts", [(4, 4), (5, 4)])
def test_what_does_not_come_or_go_is_waited_for_so_long(
    counts: tuple[int, int],
) -> None:
    flows = QueueCounters(Broker((0, 0), counts), [QUEUE])  # type: ignore[arg-type]

    flows.wait_over([QUEUE], {QUEUE: 5}, within_seconds=0.3)

    assert flows.now()[0].came_in == counts[0]
