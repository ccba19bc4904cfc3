"""Where results go. A sink takes our data, speaks its vendor's protocol and raises
our errors: :class:`~meshtasks.errors.SinkUnavailable` when trying again may help,
:class:`~meshtasks.errors.SinkRejected` when not.

Each is named by a key that stands beside its client; those that several flows use
are here.
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
    """What every sink can do."""

    def probe(self) -> None:
        """Ask the service for a sign of life, within a few seconds.

        Raises:
            SinkUnavailable: it gave none.
        """

    def close(self) -> None:
        """Release connections; the sink is not used afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class SinkKey(Generic[S]):
    """Names a sink, and opens it.

    Attributes:
        name: of its circuit, in metrics and in messages.
        open: given the sinks of the process, for its settings and for other sinks.
        extra: of our package, which brings its client.
        outlives: it holds no connection, and :meth:`Sinks.close` leaves it alone.
        waits_in: name of the queue where what is for it may wait while it is away; also
            of the queue's circuit.
    """

    name: str
    open: Callable[[Sinks], S]
    extra: Extra | None = None
    outlives: bool = False
    waits_in: str = ""

    def check(self) -> None:
        """Make sure that its client is installed; loads nothing.

        Raises:
            ConfigError: it is not.
        """
        if self.extra:
            require(self.extra, f"the sink {self.name}")


class Sinks:
    """The sinks of one process, each opened on first use.

    Built after the fork (connections must not be shared between processes) and
    used by one thread at a time.

    Attributes:
        away: of a handler that defers, the sinks that its batch is not to call, for
            what is for them waits in their queues; None of one that does not defer.
        deferred: what its batch found of sinks, if it has put aside what is for them.
        aside: how many of its records had points that were put aside.
        seen: what its batch had of each sensor.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.away: Collection[str] | None = None
        self.deferred: list[Retry] = []
        self.aside = 0
        self.seen: list[Seen] = []
        self._opened: dict[SinkKey[Any], Any] = {}

    def __getitem__(self, key: SinkKey[S]) -> S:
        """The sink of this key.

        Raises:
            ConfigError: the environment does not suit it, or its client is missing.
        """
        if key not in self._opened:
            key.check()
            self._opened[key] = key.open(self)
        sink: S = self._opened[key]
        return sink

    def __setitem__(self, key: SinkKey[S], sink: S) -> None:
        """Use this one; another that is open already is the caller's to close."""
        self._opened[key] = sink

    @property
    def opened(self) -> tuple[str, ...]:
        """Names of those that are open."""
        return tuple(key.name for key in self._opened)

    def close(self) -> None:
        """Close the sinks that were opened; they are opened again when needed."""
        for key in [key for key in self._opened if not key.outlives]:
            self._opened.pop(key).close()


class TimedPublisher(Publisher):
    """The publisher that handlers use: the broker's confirms are timed as a sink."""

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
#: The state of the rules, by series.
RULE_STATE = SinkKey("rule_state", _open_rule_states)
#: Publishes to the mesh's own exchanges, confirmed.
PUBLISHER: SinkKey[Publisher] = SinkKey(
    "publisher", lambda sinks: TimedPublisher(sinks.settings.env.amqp_url)
)
