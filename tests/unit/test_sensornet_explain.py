"""The producer sensornet's ``--explain``: what would become of a message."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from meshtasks.producers.__main__ import application
from tests.support.devices import SHIPPED


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'zigbee2mqtt/hall {"temperature": 21}',
            'sensors: sensors.temperature.hall {"sensor_id":"hall","value":21.0,',
        ),
        ('zigbee2mqtt/Bad oben\t{"temperature": 21}', "sensors.temperature.bad_oben"),
        ("tele/shed/LWT Online", "passed over: availability"),
        (
            'zigbee2mqtt/hall {"humidity": null, "state": "ON", "lamp": {"hue": 3}}',
            "passed over: kind unknown: state, lamp.hue",
        ),
        ('zigbee2mqtt/hall {"temperature": "warm"}', "dead letter: temperature: "),
        ("sensors/temperature/hall 21.5", "as it is to queue sensors.temperature"),
        ("printer/status idle", "nowhere: topology.yaml has no binding"),
    ],
)
def test_a_line_is_explained(line: str, expected: str) -> None:
    result = CliRunner().invoke(
        application("sensornet"),
        ["sensornet", "--explain"],
        input=f"{line}\n",
        env={"MESH_CONFIG_DIR": str(SHIPPED.parents[1])},
    )

    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] in line
    assert expected in result.stdout
