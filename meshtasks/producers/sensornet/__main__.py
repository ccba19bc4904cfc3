"""``python -m meshtasks.producers sensornet``: normalises the messages of devices."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterable
from typing import Annotated

import typer

from meshtasks.amqp.entities import MQTT_EXCHANGE
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.config.settings import load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.sensornet.announcements import (
    Announcements,
    AnnouncementsFile,
)
from meshtasks.producers.sensornet.config import CONFIG, SensorNet
from meshtasks.producers.sensornet.message_records import Published
from meshtasks.producers.sensornet.normaliser import Normalised, Normaliser
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
            help="Show the records made from lines of TOPIC PAYLOAD on standard "
            "input, and connect to nothing. The lines are those of mosquitto_sub "
            "-v; with a tab after the topic, topics can contain blanks.",
        ),
    ] = False,
) -> None:
    """Publish MQTT messages of devices as records of the mesh.

    Zigbee2MQTT, Tasmota, Shelly, ESPHome and others are known. Their topics and kinds
    of readings are in config/producers/sensornet.yaml. A message that cannot be read is
    a dead letter, with the reason. At the end, the producer prints the counts: received
    = published + dead + passed_over. Every minute it publishes them as metrics
    (sensornet, sensornet_passed_over), with the name of every value that was skipped.

    Exit codes: 0 stopped by a signal; 78 bad configuration, or the broker rejects the
    account. While the broker is unavailable, the producer waits.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    if explain:
        _explain(config, settings.read(TOPOLOGY), sys.stdin)
        return
    directory = settings.env.state_dir
    announcements = AnnouncementsFile(directory / "sensornet-discovery.json")
    service = DeviceService(
        broker_url(),
        config.queue,
        Normaliser(config, announcements),
        announcements,
        context.ensure_object(threading.Event),
        seen=directory / "sensornet.seen",
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
