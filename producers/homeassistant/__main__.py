"""``python -m producers homeassistant``."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

import typer

from meshtasks.config.settings import load_settings
from producers.__main__ import main
from producers.configuration import producer_config
from producers.homeassistant.config import (
    NAME,
    HomeAssistantConfig,
    access_token,
    websocket_url,
)
from producers.homeassistant.follower import Access, Feed
from producers.homeassistant.publishing import Intake
from producers.homeassistant.states import Keeper, Memory
from producers.session import run_session, spooling_producer


def homeassistant(context: typer.Context) -> None:
    """Publish what happens in Home Assistant.

    Changes of state and triggers of automations go to home.events, and readings of
    the entities that config/producers/homeassistant.yaml names to sensors. Home
    Assistant is found at MESH_HASS_URL, and opened with MESH_HASS_TOKEN (or
    MESH_HASS_TOKEN_FILE), a long-lived access token of an administrator.

    When it restarts, or this producer does, what has changed meanwhile is published
    afterwards and marked with the gap. The entity mesh.home_assistant tells whether
    it is heard.

    At the end one line of JSON on standard output says what became of its events.

    Exit codes: 0 all confirmed, 1 no queue for some, 69 broker not reached, 75 some
    not confirmed, 78 Home Assistant refuses the token, or the configuration is bad.
    """
    settings = load_settings()
    config = producer_config(settings, NAME, HomeAssistantConfig)
    access = Access(websocket_url(settings), access_token(settings))
    producer = spooling_producer(NAME)
    memory = Memory(settings.env.state_dir / "producers" / f"{NAME}.json")
    memory.load()
    intake = Intake(config, producer, memory)
    stop = context.ensure_object(threading.Event)
    feed = Feed(access, config.loops, intake, memory, stop, Keeper(memory, producer))
    exit_code = run_session(producer, feed, stop)
    memory.save()  # all that it knows is in the mesh by now, or in the spool
    typer.echo(json.dumps(asdict(intake.tally) | asdict(producer.counts())))
    raise typer.Exit(exit_code)


if __name__ == "__main__":
    main("homeassistant")
