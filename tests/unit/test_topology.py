"""config/topology.yaml: what ships, what each entity is, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtasks.amqp.entities import UNLIMITED_DELIVERIES
from meshtasks.amqp.topology import Topology
from meshtasks.config.loader import load_yaml
from meshtasks.errors import ConfigError
from tests.support.topologies import shipped_topology, small_document

Change = Callable[[dict[str, Any]], object]


def refusal(tmp_path: Path, document: object) -> ConfigError:
    """The error that a topology.yaml with this content is refused with."""
    path = tmp_path / "topology.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, Topology)
    assert caught.value.source == str(path)
    return caught.value


class TestWhatShips:
    def test_the_exchanges_of_the_architecture_are_there_with_their_types(self) -> None:
        types = {e.name: e.type for e in shipped_topology().exchanges}

        assert types == {
            "home.events": "topic",
            "sensors": "topic",
            "metrics": "topic",
            "ai": "topic",
            "alerts": "fanout",
            "archive": "topic",
            "dead.letter": "direct",
            # and what the mesh adds: its own tasks, and the unroutable
            "commands": "direct",
            "unrouted": "fanout",
        }

    def test_the_bindings_of_the_architecture_are_there_with_their_keys(self) -> None:
        drawn = {
            ("home.events", "home.events.state_changes", "home.*.*.state_changed"),
            ("home.events", "home.events.automations", "home.*.*.trigger"),
            ("sensors", "sensors.temperature", "sensors.temperature.#"),
            ("sensors", "sensors.humidity", "sensors.humidity.#"),
            ("sensors", "sensors.motion", "sensors.motion.#"),
            ("metrics", "metrics.system", "metrics.system.#"),
            ("metrics", "metrics.application", "metrics.application.#"),
            ("ai", "ai.inference.requests", "ai.model.#"),
            ("ai", "ai.inference.results", "ai.result.#"),
            ("alerts", "alerts.critical", "#"),
            ("alerts", "alerts.notifications", "alerts.#"),
            ("archive", "archive.events", "#"),
            ("archive", "archive.metrics", "#"),
            ("dead.letter", "dead.letter.queue", "#"),
        }
        bindings = {
            (b.exchange, b.destination, b.routing_key)
            for b in shipped_topology().bindings
        }

        assert drawn <= bindings
        nearly = {"sensor", "Sensor", "Sensors", "SENSORS", "senors", "sensros"}
        nearly |= {".sensors", ".home", "metrics", "ai", "alerts"}
        misspelt = {("amq.topic", "unrouted", f"{word}.#") for word in nearly}
        assert bindings - drawn - misspelt == {
            ("unrouted", "dead.letter.queue", ""),
            ("commands", "commands", "commands"),
            ("amq.topic", "sensors", "sensors.#"),
            ("amq.topic", "home.events", "home.#"),
            ("amq.topic", "devices", "homeassistant.#"),
            ("amq.topic", "devices", "zigbee2mqtt.#"),
            ("amq.topic", "devices", "tele.#"),
            ("amq.topic", "devices", "stat.#"),
            ("amq.topic", "devices", "shellies.#"),
            ("amq.topic", "devices", "*.events.rpc"),
            ("amq.topic", "devices", "*.status.*"),
            ("amq.topic", "devices", "*.online"),
            ("amq.topic", "devices", "*.sensor.*.state"),
            ("amq.topic", "devices", "*.binary_sensor.*.state"),
        }

    def test_thirteen_queues_carry_the_domains_plain_json_one_the_devices_one_waits(
        self,
    ) -> None:
        topology = shipped_topology()

        assert len(topology.domain_queues) == 13 + 1 + 1
        assert topology.queue_names - set(topology.domain_queues) == {
            "dead.letter.queue",
            "commands",
        }
        assert topology.dead_letter_queue == "dead.letter.queue"

    def test_every_exchange_but_the_last_resort_has_an_alternate(self) -> None:
        alternates = {e.name: e.alternate for e in shipped_topology().exchanges}

        assert alternates.pop("unrouted") is None
        assert set(alternates.values()) == {"unrouted"}


class TestQueueArguments:
    def test_a_queue_limits_deliveries_and_never_drops_a_dead_letter(self) -> None:
        (arguments,) = {
            tuple(sorted(queue.arguments.items()))
            for queue in shipped_topology().queues
            if queue.name != "dead.letter.queue"
        }

        assert dict(arguments) == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 20,
            "x-dead-letter-exchange": "dead.letter",
            "x-dead-letter-routing-key": "#",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    def test_dead_letters_may_be_read_as_often_as_people_like(self) -> None:
        queues = {queue.name: queue for queue in shipped_topology().queues}

        assert queues["dead.letter.queue"].arguments == {
            "x-queue-type": "quorum",
            "x-delivery-limit": UNLIMITED_DELIVERIES,
        }

    def test_a_retry_queue_gives_a_message_back_to_the_queue_its_key_names(
        self,
    ) -> None:
        topology = Topology.model_validate(small_document() | {"retry_levels": [5]})
        (retry,) = topology.retry_queues

        assert retry.name == "retry.5"
        assert retry.arguments == {
            "x-queue-type": "quorum",
            "x-message-ttl": 5000,
            "x-dead-letter-exchange": "",  # the default exchange
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    def test_each_retry_level_adds_a_fanout_exchange_bound_to_its_queue(self) -> None:
        topology = Topology.model_validate(small_document())

        assert [e.name for e in topology.all_exchanges if e.type == "fanout"] == [
            "unrouted",
            "retry.1",
            "retry.5",
        ]
        assert [
            (b.exchange, b.queue)
            for b in topology.all_bindings[len(topology.bindings) :]
        ] == [("retry.1", "retry.1"), ("retry.5", "retry.5")]


class TestDefaults:
    def test_four_lines_add_a_queue(self) -> None:
        document = small_document()
        document["queues"].append({"name": "sensors.pressure"})
        document["bindings"].append(
            {
                "exchange": "sensors",
                "queue": "sensors.pressure",
                "routing_key": "sensors.pressure.#",
            }
        )

        topology = Topology.model_validate(document)

        old, new = topology.queues[0], topology.queues[-1]
        assert new.arguments == old.arguments
        assert topology.domain_queues == (
            "sensors.temperature",
            "sensors.pressure",
            "pending.timeseries",
        )

    def test_the_queue_of_pending_points_need_not_be_named(self) -> None:
        topology = Topology.model_validate(small_document())

        pending = topology.named_queues[-1]
        like = topology.queues[0].arguments
        assert pending.arguments == {
            **like,
            "x-delivery-limit": UNLIMITED_DELIVERIES,
            "x-max-length-bytes": 1 << 30,
        }

    def test_the_queue_of_pending_points_has_another_bound_once_it_is_named(
        self,
    ) -> None:
        document = small_document()
        document["queues"].append({"name": "pending.timeseries", "max_bytes": 1000})

        topology = Topology.model_validate(document)

        (pending,) = [q for q in topology.named_queues if q.name.startswith("pending")]
        assert pending.arguments["x-max-length-bytes"] == 1000
        assert pending.arguments["x-overflow"] == "reject-publish"

    def test_a_queue_may_say_otherwise(self) -> None:
        document = small_document()
        document["queues"][0]["delivery_limit"] = 3

        topology = Topology.model_validate(document)

        assert topology.queues[0].arguments["x-delivery-limit"] == 3


def _set(*path: str | int, to: object) -> Change:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to

    return change


def _append(key: str, item: dict[str, object]) -> Change:
    return lambda document: document[key].append(item)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "key", "reason"),
        [
            pytest.param(
                _set("exchanges", 0, "type", to="topik"),
                "exchanges.0.type",
                "'topic', 'direct' or 'fanout'",
                id="unknown exchange type",
            ),
            pytest.param(
                _set("queues", 0, "kind", to="classic"),
                "queues.0.kind",
                "'quorum'",
                id="a queue that drops dead letters",
            ),
            pytest.param(
                _set("bindings", 0, "queue", to="sensors.temprature"),
                "bindings.0.queue",
                "no queue 'sensors.temprature' is declared",
                id="binding to an undeclared queue",
            ),
            pytest.param(
                _set("bindings", 0, "exchange", to="sensor"),
                "bindings.0.exchange",
                "no exchange 'sensor' is declared",
                id="binding from an undeclared exchange",
            ),
            pytest.param(
                _append(
                    "bindings",
                    {"exchange": "sensors", "to_exchange": "x", "routing_key": "a"},
                ),
                "bindings.4.to_exchange",
                "no exchange 'x' is declared",
                id="binding to an undeclared exchange",
            ),
            pytest.param(
                _append("bindings", {"exchange": "sensors", "routing_key": "a"}),
                "bindings.4",
                "either queue or to_exchange",
                id="binding to nothing",
            ),
            pytest.param(
                _append(
                    "bindings",
                    {
                        "exchange": "sensors",
                        "queue": "sensors.temperature",
                        "routing_key": "sensors.temperature.#",
                    },
                ),
                "bindings.4",
                "the same binding as bindings.0",
                id="duplicate binding",
            ),
            pytest.param(
                _set("bindings", 0, "routing_key", to=None),
                "bindings.0.routing_key",
                "# begins a comment",
                id="unquoted # as routing key",
            ),
            pytest.param(
                _append("bindings", {"exchange": "sensors", "queue": "commands"}),
                "bindings.4.routing_key",
                "only a binding of a fanout exchange",
                id="topic binding without a key",
            ),
            pytest.param(
                _append("exchanges", {"name": "sensors", "type": "topic"}),
                "exchanges.4.name",
                "sensors is declared twice",
                id="duplicate exchange",
            ),
            pytest.param(
                _append("queues", {"name": "commands"}),
                "queues.3.name",
                "commands is declared twice",
                id="duplicate queue",
            ),
            pytest.param(
                _append("queues", {"name": "retry.5"}),
                "queues.3.name",
                "retry.5 is declared by retry_levels already",
                id="a queue named as a retry queue",
            ),
            pytest.param(
                _append("exchanges", {"name": "amq.mine", "type": "topic"}),
                "exchanges.4.name",
                "the broker's own",
                id="reserved name",
            ),
            pytest.param(
                _set("queues", 0, "name", to="é" * 128),
                "queues.0.name",
                "at most 255 bytes",
                id="name too long for AMQP",
            ),
            pytest.param(
                _set("queues", 0, "dead_letter_exchange", to=None),
                "queues.0.dead_letter_exchange",
                "is needed: dead letters of other queues do not end here",
                id="queue without dead-lettering",
            ),
            pytest.param(
                _set("queues", 1, "dead_letter_exchange", to="dead.letter"),
                "queues",
                "one queue, where dead letters end",
                id="dead letters without an end",
            ),
            pytest.param(
                _set("defaults", "queue", "dead_letter_exchange", to="dead"),
                "queues.0.dead_letter_exchange",
                "no exchange 'dead' is declared",
                id="undeclared dead-letter exchange",
            ),
            pytest.param(
                _set("defaults", "queue", "dead_letter_routing_key", to=None),
                "queues.0.dead_letter_routing_key",
                "is needed: dead.letter is no fanout exchange",
                id="dead letters that keep a key nobody is bound with",
            ),
            pytest.param(
                _set("exchanges", 0, "alternate", to="nowhere"),
                "exchanges.0.alternate",
                "no exchange 'nowhere' is declared",
                id="undeclared alternate exchange",
            ),
            pytest.param(
                _set("exchanges", 0, "alternate", to="dead.letter"),
                "exchanges.0.alternate",
                "should be a fanout exchange with a queue",
                id="alternate exchange that drops what comes",
            ),
            pytest.param(
                _set("retry_levels", to=[5, 1]),
                "retry_levels.1",
                "should ascend",
                id="retry levels out of order",
            ),
            pytest.param(
                _set("retry_levels", to=[5, 5]),
                "retry_levels.1",
                "none twice",
                id="the same retry level twice",
            ),
            pytest.param(
                _set("retry_levels", to=[0]),
                "retry_levels.0",
                "greater than or equal to 1",
                id="retry level of no time",
            ),
            pytest.param(
                _set("retry_levels", to=[]),
                "retry_levels",
                "at least 1 item",
                id="no retry level",
            ),
            pytest.param(
                _set("commands_queue", to="tasks"),
                "commands_queue",
                "no queue 'tasks' is declared",
                id="undeclared commands queue",
            ),
            pytest.param(
                _set("commands_queue", to="sensors.temperature"),
                "commands_queue",
                "one binding, from a direct exchange",
                id="commands on a public topic",
            ),
            pytest.param(
                _set("commands_queue", to="dead.letter.queue"),
                "commands_queue",
                "from a direct exchange",
                id="commands among the dead letters",
            ),
            pytest.param(
                _set("queues", 0, "max_lenght", to=1),
                "queues.0.max_lenght",
                "there is no such key",
                id="unknown setting",
            ),
            pytest.param(
                _set("defaults", "queue", "delivery_limit", to=0),
                "defaults.queue.delivery_limit",
                "greater than or equal to 1",
                id="a default that cannot be",
            ),
        ],
    )
    def test_a_contradiction_is_refused_with_its_place_and_reason(
        self, tmp_path: Path, change: Change, key: str, reason: str
    ) -> None:
        document = small_document()
        change(document)

        error = refusal(tmp_path, document)

        assert error.key == key
        assert reason in error.expected

    def test_something_that_is_no_topology_at_all_is_refused(
        self, tmp_path: Path
    ) -> None:
        assert refusal(tmp_path, ["sensors"]).key == "-"

    def test_dead_letters_that_would_vanish_are_refused(self, tmp_path: Path) -> None:
        document = small_document()
        document["exchanges"][1]["alternate"] = None
        document["queues"][0]["dead_letter_routing_key"] = "dead"

        error = refusal(tmp_path, document)

        assert error.key == "queues.0.dead_letter_routing_key"
        assert "no binding from 'dead' to dead.letter.queue" in error.expected

    def test_a_second_queue_where_dead_letters_end_is_refused(
        self, tmp_path: Path
    ) -> None:
        document = small_document()
        document["queues"].append({"name": "dead.too", "dead_letter_exchange": None})
        document["bindings"].append(
            {"exchange": "dead.letter", "queue": "dead.too", "routing_key": "#"}
        )

        error = refusal(tmp_path, document)

        assert error.key == "queues.1.dead_letter_exchange"
        assert "one queue only" in error.expected

    def test_a_fanout_binding_may_have_any_key(self) -> None:
        document = small_document()
        document["bindings"][2]["routing_key"] = "of.no.effect"

        assert Topology.model_validate(document).bindings[2].routing_key
