"""``python -m meshtasks.producers homeassistant``."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from functools import partial

import typer

from meshtasks.config.extras import require
from meshtasks.config.settings import load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.homeassistant.config import (
    CONFIG,
    NAME,
    access_token,
    websocket_url,
)
from meshtasks.producers.homeassistant.publishing import EventPublisher, KnownStates
from meshtasks.producers.session import run_session, spooling_producer


def homeassistant(context: typer.Context) -> None:
    """Publish what happens in Home Assistant.

    Changes of state and triggers of automations go to home.events, and readings of
    the entities that config/producers/homeassistant.yaml names to sensors. Home
    Assistant is found at MESH_HASS_URL, and opened with MESH_HASS_TOKEN (or
    MESH_HASS_TOKEN_FILE), a long-lived access token of an administrator.

    When it restarts, or this producer does, what has changed meanwhile is published
    afterwards and marked with the gap. The state of the entity mesh.home_assistant is
    that of the connection.

    At the end one line of JSON on standard output counts what became of its events.

    Exit codes: 0 all confirmed, 1 no queue for some, 69 broker not reached, 75 some
    not confirmed, 78 Home Assistant refuses the token, or the configuration is bad.
    """
    require("homeassistant", "this producer")
    from meshtasks.producers.homeassistant.follower import Access, Follower  # noqa: PLC0415

    settings = load_settings()
    config = settings.read(CONFIG)
    access = Access(websocket_url(settings), access_token(settings))
    producer = spooling_producer(NAME)
    known = KnownStates(settings.env.state_dir / "producers" / f"{NAME}.json")
    known.load()
    publisher = EventPublisher(config, producer, known)
    stop = context.ensure_object(threading.Event)
    save = partial(known.save_confirmed, producer)
    follower = Follower(access, config.loops, publisher, stop, save)
    exit_code = run_session(producer, follower, stop)
    known.save()  # all that it knows is in the mesh by now, or in the spool
    typer.echo(json.dumps(asdict(publisher.counts) | asdict(producer.counts())))
    raise typer.Exit(exit_code)


if __name__ == "__main__":
    main("homeassistant")
