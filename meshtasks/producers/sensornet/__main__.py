"""``python -m meshtasks.producers sensornet``."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable
from typing import Annotated

import typer

from meshtasks.amqp.routing import MQTT_EXCHANGE
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.config.settings import load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.sensornet.config import CONFIG, SensorNet
from meshtasks.producers.sensornet.discovery import Announcements, AnnouncementsFile
from meshtasks.producers.sensornet.normaliser import Normalised, Normaliser, Published
from meshtasks.producers.sensornet.service import DeviceService
from meshtasks.producers.session import broker_url
from meshtasks.text import printable


def sensornet(
    context: typer.Context,
    *,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Connect to nothing; read lines of TOPIC PAYLOAD from standard input, "
            "as mosquitto_sub -v prints them (or with a tab between, for topics with "
            "blanks), and show what becomes of each.",
        ),
    ] = False,
) -> None:
    """Make readings and metrics of what devices publish by MQTT.

    Zigbee2MQTT, Tasmota, Shelly, ESPHome and others; which topics are whose, and
    what becomes of each kind of reading, is in config/producers/sensornet.yaml.
    What cannot be read goes to the dead letters with the reason. At the end a
    summary is printed: received = published + dead + passed over. Every minute the same
    is published as metrics (sensornet, sensornet_passed_over), with the name of every
    value that is passed over.

    Exit codes: 0 ended in order, 78 bad configuration or a broker that refuses the
    account. A broker that is away is waited for.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    if explain:
        _explain(config, settings.read(TOPOLOGY), sys.stdin)
        return
    path = settings.env.state_dir / "sensornet-discovery.json"
    announcements = AnnouncementsFile(path)
    normaliser = Normaliser(config, announcements)
    stop = context.ensure_object(threading.Event)
    service = DeviceService(
        broker_url(),
        config.queue,
        normaliser,
        announcements,
        stop,
        seen=settings.env.state_dir / "sensornet.seen",
    )
    service.run()
    typer.echo(json.dumps(service.counts.summary()))


def _explain(config: SensorNet, topology: Topology, lines: Iterable[str]) -> None:
    normaliser = Normaliser(config, Announcements({}))
    for line in lines:
        topic, _, payload = line.rstrip("\n").partition("\t" if "\t" in line else " ")
        if not topic:
            continue
        key = topic.replace("/", ".")
        typer.echo(printable(topic))
        queues = topology.queues_reached(MQTT_EXCHANGE, key)
        if config.queue in queues:
            published = Published(key, payload.encode(), time.time())
            for outcome in _explained(normaliser.normalise(published)):
                typer.echo(printable(f"  {outcome}"))
        for queue in sorted(queues - {config.queue}):
            typer.echo(f"  as it is to queue {queue}")
        if not queues:
            typer.echo("  nowhere: topology.yaml has no binding for this topic")


def _explained(normalised: Normalised) -> Iterable[str]:
    names: dict[str, list[str]] = {}
    for message in normalised.messages:
        yield f"{message.exchange}: {message.routing_key} {message.body.decode()}"
    for (reason, name), count in (normalised.counted + normalised.remarks).items():
        names.setdefault(reason, []).append(f"{name} ({count})" if count > 1 else name)
    for reason, found in names.items():
        values = ", ".join(each for each in found if each)
        yield f"passed over: {reason}" + (f": {values}" if values else "")
    if normalised.dead is not None:
        yield f"dead letter: {normalised.dead.reason}"


if __name__ == "__main__":
    main("sensornet")
