"""Any bytes in routing keys, properties and headers, beside good readings: a real
worker stores or dead-letters each, and goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

from meshtasks.demo.servers import VictoriaMetrics
from tests.support import hostile
from tests.support.amqp import drain, queue_depth
from tests.support.hostile import PROPERTIES, Hostile
from tests.support.victoria import export
from tests.support.waiting import wait_until
from tests.support.worker import Worker, running

KEYS = (
    b"bad\xff\xffname",
    b"k\xfcche",
    "k\N{SNOWMAN}".encode(),
    b"\xed\xa0\x80",
    b"a\nb\0c d,e=f",
    b"\xff" * 200,
)
DEAD = "dead.letter.queue"


def test_every_good_reading_is_stored_and_every_odd_one_stored_or_dead(
    mesh_env: dict[str, str], victoria: VictoriaMetrics, tmp_path: Path
) -> None:
    url = mesh_env["MESH_BROKER_URL"]
    prefix, now = b"sensors.temperature.", time.time()
    body = json.dumps({"value": 21.5, "unit": "C"}).encode()
    call = b'[[[{"value":20,"location":"\\ud800"}]],{},{}]'
    odd = [Hostile(prefix + key, body) for key in KEYS]
    odd += [
        Hostile(prefix + b"odd%d" % number, body, properties)
        for number, properties in enumerate(PROPERTIES.values())
    ]
    odd.append(
        Hostile(
            prefix + b"called",
            call,
            hostile.table(b"\4taskS" + (19).to_bytes(4) + b"sensors.temperature"),
        )
    )
    commands = [Hostile(b"commands", body, each) for each in PROPERTIES.values()]
    good = {f"good{number}" for number in range(len(odd))}
    reading = json.dumps({"value": 20, "timestamp": now - 1}).encode()
    sound = [Hostile(prefix + name.encode(), reading) for name in sorted(good)]
    expected = len(odd) + len(commands)

    def stored() -> set[str]:
        return {each.labels["sensor_id"] for each in export(victoria)}

    with running(
        Worker(tmp_path, mesh_env, "sensors.temperature", "commands")
    ) as worker:
        hostile.publish(url, "sensors", chain(*zip(sound, odd, strict=True)))
        hostile.publish(url, "", commands)
        wait_until(
            lambda: (
                good <= stored()
                and len(stored() - good) + queue_depth(url, DEAD) >= expected
            ),
            30.0,
            "all readings, stored or dead",
        )
        log = worker.log()

    assert "Reconnecting" not in log
    assert "Traceback" not in log
    assert log.count(" ready.") == 1
    tool = Path(sys.executable).with_name("meshtasks")
    subprocess.run(
        [tool, "dlq", "list", "--each"],
        env={**os.environ, **mesh_env},
        check=True,
        capture_output=True,
    )
    letters = drain(url, DEAD)
    assert len(stored() - good) + len(letters) == expected
