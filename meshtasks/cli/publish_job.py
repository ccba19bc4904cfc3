"""Sending the messages of one ``meshtasks publish``, and saying how it went."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amqp.exceptions import IrrecoverableChannelError, NotFound

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.frames import new_message_id
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli.terminal import fail, say
from meshtasks.config.settings import Settings
from meshtasks.errors import (
    ConfigError,
    PublishUnconfirmed,
    Transient,
    Unroutable,
)
from meshtasks.timing import Backoff

EXIT_UNROUTABLE = 1


@dataclass(frozen=True, slots=True)
class Route:
    """Where to, and what the configuration knows of that."""

    exchange: str
    routing_key: str
    headers: Mapping[str, object]
    settings: Settings

    def message(self, body: bytes) -> Outgoing:
        """A message with this body, by this route."""
        return Outgoing(
            self.exchange,
            self.routing_key,
            body,
            message_id=new_message_id(),
            timestamp=time.time(),
            headers=dict(self.headers) or None,
        )

    def unbound(self) -> str | None:
        """That no binding matches such a message, and what to do; None if one does.

        Its exchange then hands it to the dead letters, and the broker confirms it.
        """
        topology = self._topology()
        if topology is None:
            return None
        dead_letter_queue = topology.dead_letter_queue
        reached = topology.queues_reached(self.exchange, self.routing_key)
        meant = any(
            binding.exchange == self.exchange and binding.queue == dead_letter_queue
            for binding in topology.bindings
        )
        if meant or reached != {dead_letter_queue}:
            return None
        return (
            f"no binding of exchange {self.exchange!r} matches "
            f"{self.routing_key!r}; it goes to {dead_letter_queue}.\n"
            f"{self._bindings()}\n"
            "Publish with a key that one of them matches, or add a binding there and "
            "run `meshtasks topology apply`."
        )

    def hint(self) -> str:
        """The bindings of the exchange, as configured."""
        topology = self._topology()
        if topology is None:
            return "Is the routing key right?"
        names = [each.name for each in topology.all_exchanges]
        if self.exchange not in names:
            return f"The mesh has these exchanges: {', '.join(names)}."
        return f"{self._bindings()}\n`meshtasks topology apply` puts them in place."

    def _bindings(self) -> str:
        topology = self.settings.read(TOPOLOGY)
        lines = [
            f"  {binding.routing_key} -> {binding.queue or binding.to_exchange}"
            for binding in topology.all_bindings
            if binding.exchange == self.exchange
        ]
        head = f"Bindings of {self.exchange!r} in topology.yaml:"
        return "\n".join([head, *(lines or ["  (none)"])])

    def _topology(self) -> Topology | None:
        """None where the command runs without the mesh's configuration, which it
        needs for advice alone."""
        try:
            return self.settings.read(TOPOLOGY)
        except ConfigError:
            return None


class Job:
    """The batches of one command, and how many messages were confirmed."""

    def __init__(self, route: Route, patience_seconds: float) -> None:
        self.confirmed = 0
        #: Where to go on with the lines of standard input.
        self.next_line: int | None = None
        self._route = route
        self._patience_seconds = patience_seconds
        self._backoff = Backoff()
        url = route.settings.env.amqp_url
        self._publisher = Publisher(url)
        try:
            with connected(url):
                pass  # who cannot connect is told why before any input is read
        except Transient as error:
            fail(
                f"{error}. Nothing was published. Is it running, and is "
                "MESH_BROKER_URL right?",
                os.EX_UNAVAILABLE,
            )
        self.unbound = route.unbound()
        if self.unbound:
            say(f"warning: {self.unbound}", err=True)

    @property
    def done(self) -> str:
        """What was achieved, as a sentence."""
        noun = "message" if self.confirmed == 1 else "messages"
        return f"{self.confirmed} {noun} confirmed"

    @property
    def rest(self) -> str:
        """What was achieved, and how to go on."""
        if self.next_line is None:
            return f"{self.done}."
        return (
            f"{self.done}: all before line {self.next_line}. Go on with it: "
            f"tail -n +{self.next_line} FILE | meshtasks publish …"
        )

    def send(self, bodies: Sequence[bytes]) -> None:
        """Publish messages and wait for their confirms.

        Raises:
            typer.Exit: they are not stored; the reason was printed.
        """
        messages = [self._route.message(body) for body in bodies]
        deadline = time.monotonic() + self._patience_seconds
        attempt = 0
        while True:
            try:
                self._publisher.publish(messages)
            except Unroutable as error:
                fail(f"{error}.\n{self._route.hint()}\n{self.rest}", EXIT_UNROUTABLE)
            except PublishUnconfirmed as error:
                cause = error.__cause__
                if isinstance(cause, NotFound):
                    hint = self._route.hint()
                    fail(f"{error}.\n{hint}\n{self.rest}", EXIT_UNROUTABLE)
                if isinstance(cause, IrrecoverableChannelError):
                    fail(f"refused: {error}. {self.rest}", EXIT_UNROUTABLE)
                if time.monotonic() >= deadline:
                    fail(
                        f"{error}. {self.rest} What was sent last may have been "
                        "stored too.",
                        os.EX_UNAVAILABLE,
                    )
                say(f"meshtasks: {error}; trying again", err=True)
                time.sleep(self._backoff.delay_seconds(attempt))
                attempt += 1
            else:
                self.confirmed += len(messages)
                return

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()
