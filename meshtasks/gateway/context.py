"""What the routes of one gateway share."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import Depends, Request

from meshtasks.amqp.connecting import unopened
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.republisher import Republisher
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Command, Handler
from meshtasks.gateway.clients import RateLimit, Tokens
from meshtasks.gateway.config import GATEWAY
from meshtasks.gateway.observing import Observations
from meshtasks.gateway.store import Answers, Store
from meshtasks.gateway.validation import Validator
from meshtasks.observation.query import Queries
from meshtasks.state.database import StateLocation
from meshtasks.worker.recording import Recorder

#: Messages that wait to be published, and how long each answer of the broker may take.
_MAX_WAITING, _CONFIRM_SECONDS = 1_000, 10.0
_HOUR_SECONDS, _DAY_SECONDS = 3_600.0, 86_400.0
_RECORDER_SECONDS = 5.0


@dataclass(frozen=True)
class Context:
    """The parts of a gateway; two of them are threads.

    Attributes:
        looking: the settings with the account that the mesh is looked at with.
    """

    settings: Settings
    looking: Settings
    commands: Mapping[str, Command[Any]]
    tokens: Tokens
    rate: RateLimit
    validator: Validator
    store: Store
    republisher: Republisher
    answers: Answers
    observations: Observations
    recorder: Recorder
    queries: Queries

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        handlers: Mapping[str, Handler],
        commands: Mapping[str, Command[Any]],
    ) -> Self:
        """The parts, none of them started.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        env, config = settings.env, settings.read(GATEWAY)
        unopened(env.amqp_url)  # refuses what is no URL of a broker
        store = Store(
            StateLocation.of(env),
            config.keep_keys_hours * _HOUR_SECONDS,
            config.keep_tasks_days * _DAY_SECONDS,
        )
        answers_queue = settings.read(TOPOLOGY).answers_queue.name
        recorder = Recorder(env, f"gateway@{socket.gethostname()}", "gateway")
        looking = env.console_broker_url
        return cls(
            settings,
            Settings(env.model_copy(update={"broker_url": looking}))
            if looking.get_secret_value()
            else settings,
            commands,
            Tokens(env.api_tokens.get_secret_value()),
            RateLimit(config.requests_per_second, config.burst),
            Validator(settings, handlers),
            store,
            Republisher(
                Publisher(env.amqp_url, confirm_timeout_seconds=_CONFIRM_SECONDS),
                _MAX_WAITING,
            ),
            Answers(env.amqp_url, answers_queue, store, recorder.connection),
            Observations(),
            recorder,
            Queries(),
        )

    def start(self) -> None:
        """Start the threads."""
        self.recorder.start()
        self.republisher.start()
        self.answers.start()

    def stop(self) -> None:
        """Finish what was accepted, and close everything."""
        self.answers.stop()
        self.republisher.stop()
        self.recorder.stop(_RECORDER_SECONDS)
        self.store.close()


def _of_request(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


#: The gateway's context, as a parameter of a route.
InContext = Annotated[Context, Depends(_of_request)]
