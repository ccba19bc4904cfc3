"""``meshtasks dlq`` on a real dead-letter queue."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letter_groups import Selection
from meshtasks.amqp.replay import Replay
from meshtasks.config.settings import Settings
from meshtasks.demo.rabbitmq import RabbitMQ
from meshtasks.flows.commands import ReplayDeadLetters, replay_dead_letters
from meshtasks.flows.sinks import Sinks
from tests.support.accounts import account
from tests.support.amqp import Delivery, drain, open_channel, publish_raw, queue_depth
from tests.support.archive import directory_environment
from tests.support.command import Command, command
from tests.support.dead_letters import (
    NOON,
    QUEUE,
    add_dead_letters,
    dead_letter,
    dying_again,
)
from tests.support.topologies import shipped_topology
from tests.support.waiting import wait_until

COMMAND = Path(sys.executable).with_name("meshtasks")
TEMPERATURE, HUMIDITY = "sensors.temperature", "sensors.humidity"


@pytest.fixture
def meshtasks(
    mesh_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    environment = directory_environment(tmp_path, broker_url=mesh_url)
    return command(environment, monkeypatch, capsys)


def listed(meshtasks: Command, *options: str) -> list[dict[str, object]]:
    result = meshtasks("dlq", "list", "--json", *options)
    return [json.loads(line) for line in result.stdout.splitlines()]


def id_of(meshtasks: Command, reason: str) -> str:
    """The id of the one letter that died of this."""
    (found,) = listed(meshtasks, "--each", "--reason", reason)
    return str(found["id"])


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int(each.properties["message_id"]) for each in deliveries]


class TestList:
    def test_letters_are_counted_by_reason_and_queue(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        add_dead_letters(
            mesh_url, [dead_letter(n, failed_at=NOON + n) for n in range(5)]
        )
        add_dead_letters(
            mesh_url, [dead_letter(9, 'unit "ell" is not known', kind="UnknownUnit")]
        )

        first, second = listed(meshtasks)

        assert (first["count"], first["kind"]) == (5, "SchemaMismatch")
        assert first["queue"] == TEMPERATURE
        one_by_one = listed(meshtasks, "--each")
        assert first["example"] in {
            each["id"] for each in one_by_one if each["kind"] == first["kind"]
        }
        assert first["first_failed_at"] == NOON
        assert first["last_failed_at"] == NOON + 4
        assert second["kind"] == "UnknownUnit"

    def test_what_the_broker_took_and_what_was_unroutable_is_told_too(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        publish_raw(mesh_url, "sensors", "sensors.nobody.asked", b"{}")
        publish_raw(mesh_url, "sensors", "sensors.humidity.bath", b"{}")
        reject_first(mesh_url, HUMIDITY)

        found = {(each["kind"], each["queue"]) for each in listed(meshtasks)}

        assert found == {("Unroutable", None), ("rejected", HUMIDITY)}

    def test_people_get_an_overview_with_an_example(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1), dead_letter(2)])
        shown = meshtasks("dlq", "list").stdout
        assert "2 dead letters, by reason and queue" in shown
        assert "SchemaMismatch" in shown
        assert "sensors.temperature.attic" in shown

    def test_letters_are_chosen_by_routing_key_and_by_sensor(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        named = b'{"sensor_id": "cellar-2", "value": "n/a"}'
        add_dead_letters(
            mesh_url,
            [
                dead_letter(1),
                dead_letter(2, body=named),
                dead_letter(3, queue=HUMIDITY),
            ],
        )

        def found(*options: str) -> int:
            return len(listed(meshtasks, "--each", *options))

        assert found("--routing-key", "sensors.temperature.#") == 2
        assert found("--sensor", "cellar-*") == 1
        assert found("--sensor", "attic", "--routing-key", "*.humidity.*") == 1

    def test_a_queue_that_is_not_known_is_told_with_the_one_that_was_meant(
        self, meshtasks: Command
    ) -> None:
        result = meshtasks("dlq", "list", "--queue", "sensor.temperature")
        assert "no queue sensor.temperature; did you mean" in result.stderr
        assert TEMPERATURE in result.stderr

    def test_a_reader_that_has_seen_enough_ends_it_quietly(
        self, mesh_url: str, meshtasks: Command, tmp_path: Path
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(n, "r" * 900) for n in range(300)])
        for arguments in ("list --each --limit 300", "export - --all"):
            script = '"$@" | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}'
            ended = subprocess.run(
                ["bash", "-c", script, "-", COMMAND, "dlq", *arguments.split()],
                check=False,
                env={**os.environ, "MESH_BROKER_URL": mesh_url},
                capture_output=True,
                timeout=300,
            )
            assert (ended.returncode, ended.stderr) == (141, b"")

    def test_an_empty_queue_is_good_news(self, meshtasks: Command) -> None:
        result = meshtasks("dlq", "list")
        assert (result.exit_code, result.stdout) == (0, "no dead letters\n")


class TestShow:
    def test_everything_is_told_of_a_letter(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        add_dead_letters(
            mesh_url, [dead_letter(1, traceback="Traceback\n  ZeroDivisionError")]
        )
        name = id_of(meshtasks, "expected")

        shown = meshtasks("dlq", "show", name[:6]).stdout

        assert name in shown
        assert "value: expected a number" in shown
        assert "  ZeroDivisionError" in shown
        assert '    "sensor_id": "attic"' in shown  # laid out
        assert "celery@rack" in shown

    def test_the_body_may_be_had_alone(self, mesh_url: str, meshtasks: Command) -> None:
        add_dead_letters(mesh_url, [dead_letter(1, body=b"[1]")])
        name = id_of(meshtasks, "expected")
        assert meshtasks("dlq", "show", name, "--raw").stdout == "[1]"

    def test_bytes_that_are_no_text_are_spelled(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1, body=b'{"value": "\xff"}')])
        name = id_of(meshtasks, "expected")
        assert "\\xff" in meshtasks("dlq", "show", name).stdout

    def test_a_letter_that_is_not_there(self, meshtasks: Command) -> None:
        result = meshtasks("dlq", "show", "abcdef")
        assert result.exit_code == 1
        assert "meshtasks dlq list --each" in result.stderr

    def test_what_is_no_id_is_wrong_usage(self, meshtasks: Command) -> None:
        assert meshtasks("dlq", "show", "xyz").exit_code == 2


class TestReplay:
    def test_the_selected_go_back_to_their_queue_alone(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        add_dead_letters(
            mesh_url,
            [dead_letter(1), dead_letter(2, "other"), dead_letter(3, queue=HUMIDITY)],
        )

        result = meshtasks("dlq", "replay", "--reason", "expected a number")

        assert result.exit_code == 0
        assert "2 of 3 dead letters requeued" in result.stdout
        (temperature,) = drain(mesh_url, TEMPERATURE)
        (humidity,) = drain(mesh_url, HUMIDITY)
        assert temperature.headers[headers.REPLAYS] == 1
        assert temperature.headers[headers.ROUTING_KEY] == "sensors.temperature.attic"
        assert numbers([temperature, humidity]) == [1, 3]
        assert numbers(drain(mesh_url, QUEUE)) == [2]

    @pytest.mark.parametrize(
        "filters", [{"sensor": "attic-*"}, {"routing_key": "sensors.humidity.*"}]
    )
    def test_the_command_has_the_same_filters(
        self, mesh_url: str, tmp_path: Path, filters: dict[str, str]
    ) -> None:
        body = b'{"sensor_id": "attic-2", "n": 2}'
        letters = [dead_letter(1), dead_letter(2, queue=HUMIDITY, body=body)]
        add_dead_letters(mesh_url, letters)
        environment = directory_environment(tmp_path, broker_url=mesh_url)
        arguments = ReplayDeadLetters.model_validate(filters)

        done = replay_dead_letters(arguments, Sinks(Settings(environment)), "")

        assert done == {"given_back": {HUMIDITY: 1}, "kept": {}}
        assert numbers(drain(mesh_url, HUMIDITY)) == [2]
        assert numbers(drain(mesh_url, QUEUE)) == [1]

    def test_a_dry_run_only_tells(self, mesh_url: str, meshtasks: Command) -> None:
        add_dead_letters(
            mesh_url, [dead_letter(1), dead_letter(2, queue="deleted.meanwhile")]
        )

        result = meshtasks("dlq", "replay", "--all", "--dry-run")

        assert "1 of 2 dead letters would be requeued" in result.stdout
        assert "no queue deleted.meanwhile" in result.stdout
        assert numbers(drain(mesh_url, QUEUE)) == [1, 2]

    def test_letters_of_a_queue_that_was_deleted_stay(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        add_dead_letters(
            mesh_url,
            [dead_letter(1), dead_letter(2, queue="deleted.meanwhile"), dead_letter(3)],
        )

        result = meshtasks("dlq", "replay", "--all")

        assert result.exit_code == 1
        assert "no queue deleted.meanwhile" in result.stdout
        assert numbers(drain(mesh_url, TEMPERATURE)) == [1, 3]
        assert numbers(drain(mesh_url, QUEUE)) == [2]

    def test_a_cause_of_which_a_few_fail_again_is_left_alone(
        self, mesh_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("meshtasks.amqp.failed_again._TRIAL_SECONDS", 300.0)
        others = [dead_letter(n, "another", queue=HUMIDITY) for n in range(100, 130)]
        add_dead_letters(mesh_url, [*map(dead_letter, range(60)), *others])
        topology = shipped_topology()

        with dying_again(mesh_url, TEMPERATURE):
            result = Replay(mesh_url, QUEUE, Selection(), topology).run()

        assert result.requeued == {TEMPERATURE: 20, HUMIDITY: 30}
        assert result.kept == {"those of its cause fail again": 40}
        assert list(result.failed_again) == ["SchemaMismatch: still no number"]
        assert result.failed_again.total() >= 10
        wait_until(lambda: queue_depth(mesh_url, QUEUE) == 60, 60, "the letters")

    def test_only_those_are_replayed_that_would_succeed(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        good, huge = b'{"value": 21.5}', b'{"value": 1, "t": "%s"}' % (b"x" * 2**21)
        bodies = [
            good,
            b'{"value": "n/a"}',
            b"\x1f\x8b\x08",
            b'[{"value": 21}]',
            huge,
            b"[" * 9999,
        ]
        add_dead_letters(
            mesh_url, [dead_letter(n, body=body) for n, body in enumerate(bodies)]
        )
        old = dead_letter(9, body=good).headers or {}
        died = [{"queue": TEMPERATURE, "reason": "delivery_limit", "exchange": ""}]
        publish_raw(
            mesh_url, "dead.letter", "#", good, headers={**old, "x-death": died}
        )

        planned = meshtasks("dlq", "replay", "--would-succeed", "--dry-run")
        result = meshtasks("dlq", "replay", "--would-succeed")

        for output in (planned.stdout, result.stdout):
            assert "4 kept: it would fail again" in " ".join(output.split())
            assert "1 kept: it ended its worker" in " ".join(output.split())
        assert [each.body for each in drain(mesh_url, TEMPERATURE)] == [
            good,
            b'[{"value": 21}]',
        ]
        assert queue_depth(mesh_url, QUEUE) == 5

    def test_a_long_one_holds_the_letters_for_a_while_only(
        self, mesh_url: str, meshtasks: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("meshtasks.amqp.replay._SHIFT_SECONDS", 0.0)
        with open_channel(mesh_url) as channel:
            channel.queue_delete("sensors.motion")
        deleted = [dead_letter(n, queue="sensors.motion") for n in range(100, 105)]
        add_dead_letters(mesh_url, [*deleted, *map(dead_letter, range(20))])

        result = meshtasks("dlq", "replay", "--all", "--rate", "20")  # four at a time

        assert "20 of 25 dead letters requeued" in result.stdout
        assert "5  kept: the broker has no queue sensors.motion" in result.stdout
        assert numbers(drain(mesh_url, TEMPERATURE)) == list(range(20))
        assert numbers(drain(mesh_url, QUEUE)) == list(range(100, 105))

    def test_what_the_broker_took_goes_back_too(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        publish_raw(mesh_url, "sensors", "sensors.humidity.bath", b"61")
        reject_first(mesh_url, HUMIDITY)

        assert meshtasks("dlq", "replay", "--all").exit_code == 0

        (back,) = drain(mesh_url, HUMIDITY)
        assert back.body == b"61"
        assert back.headers[headers.ROUTING_KEY] == "sensors.humidity.bath"

    def test_what_was_unroutable_goes_back_once_it_is_not(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        publish_raw(mesh_url, "sensors", "sensors.nobody.asked", b"1")
        with open_channel(mesh_url) as channel:  # a binding that has come since
            channel.queue_unbind(TEMPERATURE, "sensors", "sensors.temperature.#")
            publish_raw(mesh_url, "sensors", "sensors.temperature.attic", b"2")
            channel.queue_bind(TEMPERATURE, "sensors", "sensors.temperature.#")

        result = meshtasks("dlq", "replay", "--all")

        assert result.exit_code == 1
        assert "no binding of sensors matches" in result.stdout
        (back,) = drain(mesh_url, TEMPERATURE)
        assert back.body == b"2"
        assert back.headers[headers.EXCHANGE] == "sensors"
        assert back.headers[headers.ROUTING_KEY] == "sensors.temperature.attic"
        assert [each.body for each in drain(mesh_url, QUEUE)] == [b"1"]

    def test_a_body_may_be_edited_first(
        self,
        mesh_url: str,
        meshtasks: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1), dead_letter(2, "other")])
        editor = tmp_path / "editor"
        editor.write_text('#!/bin/sh\nsed -i \'s/"n.a"/21.5/\' "$1"\n')
        editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("EDITOR", str(editor))
        name = id_of(meshtasks, "expected")

        result = meshtasks("dlq", "replay", name, "--edit")

        assert "requeued" in result.stdout
        (back,) = drain(mesh_url, TEMPERATURE)
        assert json.loads(back.body)["value"] == 21.5
        assert back.headers[headers.HISTORY][0]["edited"] is True
        assert numbers(drain(mesh_url, QUEUE)) == [2]

    def test_it_wants_to_know_which(self, meshtasks: Command) -> None:
        result = meshtasks("dlq", "replay")
        assert result.exit_code == 2
        assert "--all" in result.stderr


class TestForgery:
    """What a sender writes into headers that are the mesh's or the broker's."""

    def test_no_letter_takes_a_call_to_the_commands_queue(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        body = b'[[], {"matchers": ["severity=~.*"], "hours": 720}, {}]'
        forged = {
            headers.REASON: "none",
            headers.ERROR_TYPE: "None",
            headers.QUEUE: "commands",
            headers.EXCHANGE: "commands",
            headers.ROUTING_KEY: "commands",
            "x-death": [{"queue": "commands", "reason": "rejected", "exchange": ""}],
            "task": "meshtasks.silence_alerts",
            "id": "forged",
            "lang": "py",
        }
        steering = {"CC": ["commands"], **forged}
        # unroutable, taken by the broker, and by somebody who may publish there
        publish_raw(mesh_url, "sensors", "sensors.nobody", body, headers=forged)
        publish_raw(mesh_url, "sensors", "sensors.humidity.x", body, headers=steering)
        reject_first(mesh_url, HUMIDITY)
        publish_raw(mesh_url, "dead.letter", "#", body, headers=steering)

        told = {(each["kind"], each["queue"]) for each in listed(meshtasks, "--each")}
        result = meshtasks("dlq", "replay", "--all")

        assert told >= {("Unroutable", None), ("rejected", HUMIDITY)}
        assert "1 of 3 dead letters requeued" in result.stdout
        assert queue_depth(mesh_url, "commands") == 0
        (back,) = drain(mesh_url, HUMIDITY)
        assert not {"CC", "task", "id", "lang", headers.REASON} & set(back.headers)


class TestDrop:
    def test_the_selected_are_deleted(self, mesh_url: str, meshtasks: Command) -> None:
        add_dead_letters(
            mesh_url, [dead_letter(1), dead_letter(2, "other"), dead_letter(3)]
        )
        result = meshtasks("dlq", "drop", "--reason", "expected", "--yes")
        assert result.stdout == "2 deleted\n"
        assert numbers(drain(mesh_url, QUEUE)) == [2]

    def test_nothing_is_deleted_without_a_yes(
        self, mesh_url: str, meshtasks: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1)])
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert meshtasks("dlq", "drop", "--all").exit_code == 1
        assert queue_depth(mesh_url, QUEUE) == 1


class TestAccounts:
    def test_an_operator_may_do_all_of_it(
        self,
        mesh_url: str,
        rabbitmq: RabbitMQ,
        mesh_vhost: str,
        meshtasks: Command,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1), dead_letter(2, "other")])
        operator = account(rabbitmq, mesh_vhost, "operator")
        monkeypatch.setenv("MESH_BROKER_URL", operator)
        assert meshtasks("dlq", "replay", "--reason", "expected").exit_code == 0
        assert meshtasks("dlq", "drop", "--all", "--yes").exit_code == 0
        assert queue_depth(mesh_url, QUEUE) == 0

    def test_who_may_not_is_told_so(
        self,
        mesh_url: str,
        rabbitmq: RabbitMQ,
        mesh_vhost: str,
        meshtasks: Command,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        producer = account(rabbitmq, mesh_vhost, "producer")
        monkeypatch.setenv("MESH_BROKER_URL", producer)
        result = meshtasks("dlq", "list")
        assert result.exit_code == 78
        assert "the account may not look at dead.letter.queue" in result.stderr


class TestOddLetters:
    """Whatever somebody put into a message, the tool works for all others."""

    def test_every_command_survives_them(
        self, mesh_url: str, meshtasks: Command, tmp_path: Path
    ) -> None:
        tables: list[dict[str, Any]] = [
            {headers.REASON: "r", headers.REPLAYS: 2**63 - 1, headers.QUEUE: HUMIDITY},
            {headers.REASON: "r", headers.FAILED_AT: "0000-01-01T00:00:00"},
            {headers.REASON: "r", headers.FAILED_AT: "0001-01-01T00:00:00+23:59"},
            {headers.REASON: {"a": [1]}, headers.ERROR_TYPE: 5, headers.QUEUE: ["q"]},
            {headers.REASON: b"\xff", headers.HISTORY: [1, {"kind": {}}, "x"]},
            {headers.REASON: None, headers.EXCHANGE: True, headers.TRACEBACK: {"a": 1}},
            {"x-death": "text"},
            {"x-death": [{"queue": 5, "time": "x", "routing-keys": "k"}]},
            {
                "x-death": [{"queue": {"a": 1}, "routing-keys": [{"b": 2}]}],
            },
            {headers.RECORD_INDEX: {"a": None}, headers.REPLAYED_AT: [1.5]},
        ]
        for table in tables:
            publish_raw(mesh_url, "dead.letter", "#", b"9" * 5_000, headers=table)
        publish_raw(mesh_url, "sensors", "no.queue", b"[" * 900, timestamp=2**62)
        add_dead_letters(mesh_url, [dead_letter(1)])
        count = len(tables) + 2

        assert f"{count} dead letters" in meshtasks("dlq", "list").stdout
        ids = {str(each["id"]) for each in listed(meshtasks, "--each")}
        for each in ids:
            assert meshtasks("dlq", "show", each).exit_code == 0
        kept = meshtasks("dlq", "export", tmp_path / "letters", "--all")
        assert f"{count} dead letters written" in kept.stderr
        assert "dead letters requeued" in meshtasks("dlq", "replay", "--all").stdout
        assert meshtasks("dlq", "drop", "--all", "--yes").exit_code == 0
        back = meshtasks("dlq", "import", tmp_path / "letters")
        assert f"{count} dead letters imported" in back.stdout
        assert {str(each["id"]) for each in listed(meshtasks, "--each")} == ids

    def test_one_without_a_time_is_shown_and_not_dropped_by_its_age(
        self, mesh_url: str, meshtasks: Command
    ) -> None:
        publish_raw(mesh_url, "sensors", "sensors.nobody.asked", b"1")
        assert len(listed(meshtasks, "--each", "--newer-than", "1h")) == 1
        dropped = meshtasks("dlq", "drop", "--older-than", "1h", "--yes")
        assert "1 of unknown age" in dropped.stderr
        assert queue_depth(mesh_url, QUEUE) == 1


class TestFiles:
    def test_headers_come_back_with_their_types(
        self, mesh_url: str, meshtasks: Command, tmp_path: Path
    ) -> None:
        table: dict[str, Any] = {
            "bytes": b"\xff\x00",
            "decimal": Decimal("1.25"),
            "time": datetime(2026, 11, 28, 4, 0, 0),  # noqa: DTZ001 - AMQP's has no zone
            "nested": {"list": [1, 2.5, True, None, {"deep": b"\xfe"}], "$x": "y"},
            "looks marked": {"$bytes": "AA=="},
            "large": 2**62,
        }
        publish_raw(mesh_url, "sensors", "sensors.no", b"{}", headers=table)
        meshtasks("dlq", "export", tmp_path / "letters", "--all")
        drain(mesh_url, QUEUE)
        assert meshtasks("dlq", "import", tmp_path / "letters").exit_code == 0

        (back,) = drain(mesh_url, QUEUE)
        assert {name: back.headers[name] for name in table} == table

    def test_letters_come_back_as_they_were(
        self, mesh_url: str, meshtasks: Command, tmp_path: Path
    ) -> None:
        publish_raw(mesh_url, "sensors", "sensors.humidity.bath", b"61")
        reject_first(mesh_url, HUMIDITY)
        publish_raw(mesh_url, "sensors", "sensors.no", b"{}", timestamp=1_795_435_200)
        add_dead_letters(
            mesh_url, [dead_letter(1), dead_letter(1), dead_letter(2, body=b"\xff\x00")]
        )
        before = listed(meshtasks, "--each")

        exported = meshtasks("dlq", "export", tmp_path / "letters", "--all")
        meshtasks("dlq", "drop", "--all", "--yes")
        imported = meshtasks("dlq", "import", tmp_path / "letters")

        assert "5 dead letters written" in exported.stderr
        assert "5 dead letters imported" in imported.stdout
        assert listed(meshtasks, "--each") == before
        bodies = [each.body for each in drain(mesh_url, QUEUE)]
        assert bodies[:2] == [b"61", b"{}"]
        assert bodies[4] == b"\xff\x00"

    def test_what_is_there_already_is_left_out(
        self, mesh_url: str, meshtasks: Command, tmp_path: Path
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1), dead_letter(1), dead_letter(2)])
        meshtasks("dlq", "export", tmp_path / "letters", "--all")
        drain(mesh_url, QUEUE)
        add_dead_letters(mesh_url, [dead_letter(1)])

        imported = meshtasks("dlq", "import", tmp_path / "letters")

        assert "2 dead letters imported, 1 were in the queue already" in imported.stdout
        assert sorted(numbers(drain(mesh_url, QUEUE))) == [1, 1, 2]

    def test_a_line_that_is_none_is_named(
        self, mesh_url: str, meshtasks: Command, tmp_path: Path
    ) -> None:
        add_dead_letters(mesh_url, [dead_letter(1)])
        meshtasks("dlq", "export", tmp_path / "letters", "--all")
        with (tmp_path / "letters").open("a") as file:
            file.write('{"headers": {}, "body": "{}"}\n')

        imported = meshtasks("dlq", "import", tmp_path / "letters")

        assert imported.exit_code == 65
        assert "line 2: headers: x-mesh-reason is missing" in imported.stderr


def reject_first(url: str, queue: str) -> None:
    """Have the broker dead-letter the first message of a queue."""
    before = queue_depth(url, QUEUE)
    with open_channel(url) as channel:
        message = channel.basic_get(queue, no_ack=False)
        channel.basic_reject(message.delivery_tag, requeue=False)
        wait_until(lambda: queue_depth(url, QUEUE) > before, 30, "a dead letter")
