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
    """Publish events and readings of Home Assistant.

    State changes and triggers of automations go to the exchange home.events; readings
    of the entities that config/producers/homeassistant.yaml names go to the exchange
    sensors. MESH_HASS_URL is the URL of Home Assistant; MESH_HASS_TOKEN (or
    MESH_HASS_TOKEN_FILE) is a long-lived access token of an administrator.

    After a restart of Home Assistant or of this producer, changes of the meantime are
    published with the field gap. The entity mesh.home_assistant shows the state of the
    connection.

    At the end, the producer prints one line of JSON on standard output: the counts of
    its events.

    Exit codes: 0 all confirmed; 1 no queue for some messages; 69 the broker cannot be
    reached; 75 some not confirmed, they are on disk; 78 Home Assistant rejects the
    token, or bad configuration.
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
    known.save()  # every change of these states is now in the mesh or in the spool
    typer.echo(json.dumps(asdict(publisher.counts) | asdict(producer.counts())))
    raise typer.Exit(exit_code)


if __name__ == "__main__":
    main("homeassistant")
