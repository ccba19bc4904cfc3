"""Sinks: services and stores to which handlers write.

The client of a sink uses the protocol of its service, and raises our errors:
:class:`~meshtasks.errors.SinkUnavailable` if a retry may succeed,
:class:`~meshtasks.errors.SinkRejected` if not.

Each sink has a key, which is defined beside its client. The keys of sinks that several
flows use are here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from typing_extensions import override

from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import PENDING_TIMESERIES
from meshtasks.config.extras import Extra, require
from meshtasks.config.settings import Settings
from meshtasks.flows.timeseries import TimeSeries
from meshtasks.outcome import Retry
from meshtasks.state.sensor_activity import Seen
from meshtasks.timing import timing

if TYPE_CHECKING:
    from meshtasks.rules.store import RuleStateStore

S = TypeVar("S")


class Sink(Protocol):
    """The methods of every sink."""

    def probe(self) -> None:
        """Check within a few seconds that the service responds.

        Raises:
            SinkUnavailable: the service is unavailable.
        """

    def close(self) -> None:
        """Release connections; the sink is not used afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class SinkKey(Generic[S]):
    """Names a sink, and opens it.

    Attributes:
        name: name of the sink and of its circuit, in metrics and texts.
        open: opens the sink; gets the sinks of the process, for settings and other
            sinks.
        extra: extra of our package that installs its client; None if none is needed.
        outlives: whether :meth:`Sinks.close` keeps it, because it has no connection.
        waits_in: name of the queue in which its data may wait while it is unavailable,
            and of that queue's circuit; empty if there is none.
    """

    name: str
    open: Callable[[Sinks], S]
    extra: Extra | None = None
    outlives: bool = False
    waits_in: str = ""

    def check(self) -> None:
        """Check that its client is installed, without loading it.

        Raises:
            ConfigError: the client is not installed.
        """
        if self.extra:
            require(self.extra, f"the sink {self.name}")


class Sinks:
    """The sinks of one process, each opened on first use.

    Made after the fork, because processes must not share connections. Only one thread
    may use it at a time.

    Attributes:
        settings: settings of the process.
        away: names of sinks that the present batch must not call, because their data
            waits in their queues; None if the handler does not defer.
        deferred: the failures of sinks for which the batch has put data aside.
        aside: number of records of the batch whose points were put aside.
        seen: activity of sensors in the batch.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.away: Collection[str] | None = None
        self.deferred: list[Retry] = []
        self.aside = 0
        self.seen: list[Seen] = []
        self._opened: dict[SinkKey[Any], Any] = {}

    def __getitem__(self, key: SinkKey[S]) -> S:
        """The sink of a key; opened if it is not open.

        Raises:
            ConfigError: its settings are invalid, or its client is not installed.
        """
        if key not in self._opened:
            key.check()
            self._opened[key] = key.open(self)
        sink: S = self._opened[key]
        return sink

    def __setitem__(self, key: SinkKey[S], sink: S) -> None:
        """Use a sink for a key. A sink that is already open must be closed by the
        caller."""
        self._opened[key] = sink

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of the open sinks."""
        return tuple(key.name for key in self._opened)

    def close(self) -> None:
        """Close the open sinks. They are opened again on their next use."""
        for key in [key for key in self._opened if not key.outlives]:
            self._opened.pop(key).close()


class TimedPublisher(Publisher):
    """The publisher of handlers; it measures the wait for confirms like that for other
    sinks."""

    @override
    @timing("publisher")
    def publish(self, messages: Sequence[Outgoing]) -> None:
        super().publish(messages)


def _open_rule_states(sinks: Sinks) -> RuleStateStore:
    # loads SQLAlchemy
    from meshtasks.rules.store import RuleStateStore  # noqa: PLC0415
    from meshtasks.state.database import StateLocation  # noqa: PLC0415

    return RuleStateStore(StateLocation.of(sinks.settings.env))


#: The time-series store.
TIMESERIES = SinkKey(
    "timeseries",
    lambda sinks: TimeSeries.from_environment(sinks.settings.env),
    waits_in=PENDING_TIMESERIES,
)
#: The states of rules, by series.
RULE_STATE = SinkKey("rule_state", _open_rule_states)
#: Publishes to exchanges of the mesh, with confirms.
PUBLISHER: SinkKey[Publisher] = SinkKey(
    "publisher", lambda sinks: TimedPublisher(sinks.settings.env.amqp_url)
)
