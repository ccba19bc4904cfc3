"""F3: where results go. A sink takes our data, speaks its vendor's protocol and
raises our errors: :class:`~meshtasks.errors.SinkUnavailable` when trying
again may help, :class:`~meshtasks.errors.SinkRejected` when not."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from meshtasks.flows.circuit import Circuit
from meshtasks.records.kinds import KINDS

if TYPE_CHECKING:
    from meshtasks.amqp.publisher import Publisher
    from meshtasks.config.settings import Settings
    from meshtasks.flows.alerts.notifier import Notifier
    from meshtasks.flows.alerts.store import AlertStore
    from meshtasks.flows.analytics.dataset import DatasetWriter
    from meshtasks.flows.archive.objects import ObjectStore
    from meshtasks.flows.inference.triton import Triton
    from meshtasks.flows.timeseries import TimeSeries
    from meshtasks.flows.webhooks.client import Webhooks
    from meshtasks.rules.store import RuleStateStore
    from meshtasks.state.archive_journal import ArchiveJournal
    from meshtasks.state.webhook_log import WebhookLog


class Sink(Protocol):
    """What the worker needs of every sink."""

    def probe(self) -> None:
        """Ask the service for a sign of life, within a few seconds.

        Raises:
            SinkUnavailable: it gave none.
        """

    def close(self) -> None:
        """Release connections; the sink is not used afterwards."""


class Sinks:
    """The sinks of one process, each connected on first use.

    Built after the fork (connections must not be shared between processes) and
    used by one thread at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: Of each receiver of notifications; what they know outlives :meth:`close`.
        self.receiver_circuits: defaultdict[str, Circuit] = defaultdict(Circuit)

    @cached_property
    def timeseries(self) -> TimeSeries:
        """The time-series store."""
        from meshtasks.flows.timeseries import TimeSeries  # noqa: PLC0415

        return TimeSeries.from_environment(self.settings.env)

    @cached_property
    def objects(self) -> ObjectStore:
        """The object store that holds the archive."""
        from meshtasks.flows.archive.objects import open_store  # noqa: PLC0415

        return open_store(self.settings.env)

    @cached_property
    def journal(self) -> ArchiveJournal:
        """Which records this host has archived."""
        from meshtasks.state.archive_journal import ArchiveJournal  # noqa: PLC0415

        return ArchiveJournal(self.settings.env.state_dir / "archive.sqlite")

    @cached_property
    def analytics(self) -> DatasetWriter:
        """Adds what is archived to the analytics dataset."""
        from meshtasks.flows.analytics.dataset import DatasetWriter  # noqa: PLC0415

        return DatasetWriter(self.objects, self.settings.read(KINDS))

    @cached_property
    def rule_state(self) -> RuleStateStore:
        """What the anomaly rules remember of each series."""
        from meshtasks.rules.store import RuleStateStore  # noqa: PLC0415

        return RuleStateStore(self.settings.env.state_dir / "rules.sqlite")

    @cached_property
    def alert_state(self) -> AlertStore:
        """How alerts stand and who was told."""
        from meshtasks.flows.alerts.store import AlertStore  # noqa: PLC0415

        return AlertStore(self.settings.env.state_dir / "alerts.sqlite")

    @cached_property
    def notifier(self) -> Notifier:
        """Sends notifications to phones and elsewhere."""
        from meshtasks.flows.alerts.notifier import Notifier  # noqa: PLC0415

        return Notifier(self.settings.env.receivers)

    @cached_property
    def webhook(self) -> Webhooks:
        """Webhooks; the name is that of n8n's circuit."""
        from meshtasks.flows.webhooks.client import Webhooks  # noqa: PLC0415

        return Webhooks.from_settings(self.settings)

    @cached_property
    def webhook_log(self) -> WebhookLog:
        """Which webhooks have taken a record that is not done yet."""
        from meshtasks.state.webhook_log import WebhookLog  # noqa: PLC0415

        return WebhookLog(self.settings.env.state_dir / "webhooks.sqlite")

    @cached_property
    def triton(self) -> Triton:
        """The server of the models."""
        from meshtasks.flows.inference.triton import Triton  # noqa: PLC0415 - loads gevent

        return Triton.from_settings(self.settings)

    @cached_property
    def publisher(self) -> Publisher:
        """Publishes to the mesh's own exchanges, confirmed."""
        from meshtasks.flows.timed_publisher import TimedPublisher  # noqa: PLC0415

        return TimedPublisher(self.settings.env.amqp_url)

    def close(self) -> None:
        """Close the sinks that were opened; they are opened again when needed."""
        opened = {**vars(self)}
        del opened["settings"], opened["receiver_circuits"]
        for name, sink in opened.items():
            delattr(self, name)
            sink.close()

    def named(self, name: str) -> Sink:
        """The sink of that name, as given to ``@handles(sinks=…)``."""
        sink: Sink = getattr(self, name)
        return sink
