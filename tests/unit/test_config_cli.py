"""``meshtasks config check``, and what it explains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtasks.config.environment import Environment
from tests.support.command import Command, command

SHIPPED = Path(__file__).parents[2] / "config"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the shipped configuration, to be changed."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "config"))


@pytest.fixture
def check(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Runs ``meshtasks config check`` on the copy."""
    environment = Environment.model_validate(
        {
            "broker_url": "amqp://user:password@broker//",
            "config_dir": config,
            "archive_url": f"file://{tmp_path}/archive",
        }
    )
    run = command(environment, monkeypatch, capsys)
    return lambda *arguments: run("config", "check", *arguments)


@pytest.fixture
def edit(config: Path) -> Callable[[str, str, str], int]:
    """Replaces a text in a file; gives the line where it stood."""

    def replace(file: str, old: str, new: str) -> int:
        path = config / file
        before, found, after = path.read_text(encoding="utf-8").partition(old)
        assert found
        path.write_text(before + new + after, encoding="utf-8")
        return before.count("\n") + 1

    return replace


Edit = Callable[[str, str, str], int]


def test_what_ships_has_neither_errors_nor_warnings(check: Command) -> None:
    result = check()

    assert result.exit_code == 0
    assert result.stdout.endswith("no errors, no warnings, 3 notes\n")


def test_all_errors_of_all_files_are_named_with_their_lines(
    check: Command, edit: Edit, config: Path
) -> None:
    above = edit("rules.yaml", "above: 50", "above: hot")
    kind = edit("topology.yaml", "type: topic}", "type: topik}")
    queue = edit("queues.yaml", "  archive.events:", "  archive.event:")

    result = check()

    assert result.exit_code == 78
    assert f"{config}/rules.yaml:{above}: error: rules.0.above" in (result.stdout)
    assert f"{config}/topology.yaml:{kind}: error: exchanges.0.type" in result.stdout
    assert f"queues.yaml:{queue}: error" not in result.stdout  # needs the topology
    assert result.stdout.endswith("2 errors, no warnings\n")


def test_an_error_of_a_producer_is_named(check: Command, edit: Edit) -> None:
    line = edit("producers/system.yaml", "interval_seconds: ", "interval_secs: ")

    result = check()

    assert result.exit_code == 78
    assert f"producers/system.yaml:{line}: error: interval_secs" in result.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (
            "rules.yaml",
            "sensors.humidity.#",
            "sensors.humidty.#",
            "the rule damp watches nothing",
        ),
        (
            "rules.yaml",
            "metrics.system.#",
            "sensors.temperature.#",
            "the rule disk-full watches nothing",
        ),
        ("archive.yaml", '"ai.result.#"', '"ia.#"', "ia.# matches no routing key"),
        (
            "archive.yaml",
            "metrics: [metrics, sensors]",
            "metrics: [metrics, sensor]",
            "begins with sensor",
        ),
        (
            "models.yaml",
            "models:\n",
            "models:\n  porch-scene: {}\n",
            "porch-scene has no steps",
        ),
        (
            "models.yaml",
            "answer_timeout_seconds: 30",
            "answer_timeout_seconds: 200",
            "it would be cut off",
        ),
        (
            "alerts.yaml",
            "receivers: [phone, mail]",
            "receivers: [phone, mail, pager]",
            "no route has receiver pager",
        ),
        (
            "workflows.yaml",
            "workflows: []",
            "workflows: [{name: a, routing_key: sensors.x, webhook: {url: /a}}]",
            "nothing starts a",
        ),
        (
            "kinds.yaml",
            "default_units:",
            "kinds: {co2: {unit: ppm, field: ppm}}\ndefault_units:",
            "no queue has the kind co2",
        ),
        (
            "topology.yaml",
            "  - name: home.events.state_changes\n",
            "  - name: sensors.pressure\n  - name: home.events.state_changes\n",
            "no binding leads to sensors.pressure",
        ),
    ],
)
def test_what_can_never_work_is_a_warning(
    check: Command, edit: Edit, file: str, old: str, new: str, says: str
) -> None:
    line = edit(file, old, new)

    result = check()

    warnings = [each for each in result.stdout.splitlines() if ": warning: " in each]
    assert result.exit_code == 1
    assert any(says in each for each in warnings)
    place = int(warnings[0].partition(f"{file}:")[2].partition(":")[0])
    assert place in (line, line + 1)


def test_warnings_may_be_allowed_but_no_error_is(check: Command, config: Path) -> None:
    (config / "rule.yaml").write_text("rules: []\n")
    assert check("--allow-warnings").exit_code == 0

    (config / "rules.yaml").write_text("rules: 1\n")
    assert check("--allow-warnings").exit_code == 78


def test_a_file_that_cannot_be_looked_at_is_an_error(
    check: Command, config: Path
) -> None:
    (config / "rules.yaml").unlink()
    (config / "rules.yaml").symlink_to("rules.yaml")  # as little as without the right

    result = check()

    assert result.exit_code == 78
    assert "rules.yaml" in result.stdout
    assert "Too many levels" in result.stdout


def test_a_file_that_nothing_reads_is_a_warning(check: Command, config: Path) -> None:
    (config / "rule.yaml").touch()

    result = check()

    assert result.exit_code == 1
    assert f"{config}/rule.yaml: warning: -: nothing reads this file" in result.stdout


def test_findings_are_there_as_json(check: Command, edit: Edit) -> None:
    line = edit("rules.yaml", "above: 50", "above: hot")

    result = check("--json")

    (finding,) = json.loads(result.stdout)
    assert (finding["level"], finding["line"]) == ("error", line)


def explained(check: Command, *arguments: str) -> dict[str, Any]:
    result = check("--json", "--explain", *arguments)
    assert result.exit_code == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_routing_key_is_followed_to_its_queue_rules_alerts_and_archive(
    check: Command,
) -> None:
    found = explained(check, "sensors.temperature.attic")

    (queue,) = found["queues"]
    assert found["exchange"] == "sensors"
    assert queue["queue"] == "sensors.temperature"
    assert queue["handler"].endswith("readings.handler.store_readings")
    assert queue["sinks"] == ["timeseries", "rule_state"]
    assert {rule["name"] for rule in queue["rules"]} == {
        *("overheating", "freezer-warm", "unusual-temperature"),
    }
    assert queue["rules"][0]["routes"] == {"critical": ["phone", "mail"]}
    assert (found["archived_one_in"], found["archive_queue"]) == (1, "archive.metrics")


def test_a_routing_key_is_followed_to_the_workflows(check: Command, edit: Edit) -> None:
    edit(
        "workflows.yaml",
        "workflows: []",
        "workflows: [{name: hall-light, routing_key: sensors.motion.hall, "
        "when: [{field: motion, equals: true}], webhook: {url: /webhook/hall}}]",
    )

    (queue,) = explained(check, "sensors.motion.hall")["queues"]

    assert queue["workflows"] == [
        {
            "name": "hall-light",
            "url": "http://127.0.0.1:5678/webhook/hall",
            "when": ["motion"],
        }
    ]


def test_a_route_that_depends_on_other_labels_is_a_possibility(
    check: Command, edit: Edit
) -> None:
    edit(
        "alerts.yaml",
        "routes:\n",
        "routes:\n  - {name: attic, match: [location=attic]}\n",
    )

    (first, _) = explained(check, "alerts.critical.rules.overheating")["queues"]

    assert list(first["alert_routes"]) == ["attic (if location=attic)", "critical"]


def test_people_read_it_as_text(check: Command) -> None:
    result = check("--explain", "metrics.system.nas")

    assert "queue       metrics.system\n" in result.stdout
    assert "rule      disk-full: warning, threshold, metric disk" in result.stdout
    assert "phone (has no URL)" in result.stdout


def test_what_no_binding_matches_is_a_dead_letter(check: Command) -> None:
    result = check("--explain", "sensors.pressure.attic")

    assert "it becomes a dead letter" in result.stdout


def test_a_devices_own_topic_is_followed_over_the_brokers_exchange(
    check: Command,
) -> None:
    found = explained(check, "sensors.humidity.bath", "--exchange", "amq.topic")

    assert [queue["queue"] for queue in found["queues"]] == ["sensors.humidity"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--explain", "attic.temperature"), "which exchange?"),
        (("--explain", "sensors.x", "--exchange", "sensor"), "declares no exchange"),
        (("--exchange", "sensors"), "needs --explain"),
    ],
)
def test_a_question_that_cannot_be_answered_is_wrong_usage(
    check: Command, arguments: tuple[str, ...], says: str
) -> None:
    result = check(*arguments)

    assert result.exit_code == 2
    assert says in result.stderr


def test_a_queue_that_has_no_exchange_is_explained_by_its_name(check: Command) -> None:
    result = check("--explain", "pending.timeseries")

    assert result.exit_code == 0
    assert "pending.timeseries straight to a queue" in result.stdout
    assert "Write points that have waited" in result.stdout
    assert "archive     nothing" in result.stdout


def test_a_queue_in_partitions_is_explained_as_such(check: Command, edit: Edit) -> None:
    edit(
        "topology.yaml",
        "- name: sensors.temperature\n",
        "- {name: sensors.temperature, partitions: 4}\n",
    )

    result = check("--explain", "sensors.temperature.attic")

    assert (
        "sensors.temperature, one of 4 partitions by the routing key" in result.stdout
    )
    explained = json.loads(check("--explain", "sensors.temperature.a", "--json").stdout)
    assert [queue["partitions"] for queue in explained["queues"]] == [4]
