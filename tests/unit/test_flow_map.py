"""The picture of the flow: any topology has a place for every box."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from meshtasks.amqp.topology import Topology
from meshtasks.gateway.console.flow_picture import Look, Picture
from meshtasks.observation.collect import WorkerAnswer
from meshtasks.observation.flow_map import FlowMap, colour_of, flow_map

END: list[dict[str, Any]] = [
    {"name": "dead.letter.queue", "dead_letter_exchange": None, "delivery_limit": None},
    {"name": "commands"},
]
BASE = {
    "retry_levels": [1],
    "commands_queue": "commands",
    "defaults": {
        "queue": {"dead_letter_exchange": "dead.letter", "dead_letter_routing_key": "#"}
    },
}
BINDINGS: list[dict[str, Any]] = [
    {
        "exchange": "dead.letter",
        "queue": "dead.letter.queue",
        "routing_key": "#",
    },
    {"exchange": "commands", "queue": "commands", "routing_key": "commands"},
]


def topology(
    exchanges: Sequence[str],
    queues: Sequence[dict[str, Any]],
    bindings: Sequence[dict[str, Any]],
) -> Topology:
    named = [*exchanges, "dead.letter", "commands"]
    types = {"dead.letter": "direct", "commands": "direct"}
    return Topology.model_validate(
        {
            **BASE,
            "exchanges": [{"name": n, "type": types.get(n, "topic")} for n in named],
            "queues": [*queues, *END],
            "bindings": [*bindings, *BINDINGS],
        }
    )


def chained(length: int) -> Topology:
    """A chain of exchanges with a queue at each, and many queues at the last."""
    names = [f"e{number}" for number in range(length)]
    links = [
        {"exchange": a, "to_exchange": b, "routing_key": "#"}
        for a, b in pairwise(names)
    ]
    queues = [{"name": f"q.{number}"} for number in range(40)]
    bound = [
        {"exchange": names[number % length], "queue": f"q.{number}", "routing_key": "#"}
        for number in range(40)
    ]
    return topology(names, queues, [*links, *bound])


def circle() -> Topology:
    ends = [("a", "b"), ("b", "c"), ("c", "a")]
    links = [{"exchange": a, "to_exchange": b, "routing_key": "x"} for a, b in ends]
    bound = {"exchange": "a", "queue": "q", "routing_key": "q.#"}
    return topology(["a", "b", "c"], [{"name": "q"}], [*links, bound])


def unbound() -> Topology:
    return topology(["lonely"], [{"name": "q", "partitions": 3}], [])


@pytest.mark.parametrize("shape", [chained(1), chained(6), circle(), unbound()])
def test_every_box_has_a_place_of_its_own(shape: Topology) -> None:
    graph = flow_map(shape, {}, [])

    places = [(node.column, node.row) for node in graph.nodes.values()]
    assert len(set(places)) == len(places)
    assert {node.name for node in graph.nodes.values()} >= shape.queue_names


def test_an_exchange_stands_left_of_what_it_leads_to() -> None:
    graph = flow_map(chained(6), {}, [])

    for edge in graph.edges:
        source, target = graph.nodes[edge.source], graph.nodes[edge.target]
        assert source.column < target.column


def test_a_worker_of_one_partition_consumes_the_queue() -> None:
    answer = WorkerAnswer("w@h", ("q.p0",), ("q.p2",), {})
    shape = unbound()
    names = shape.partitioned["q"].names
    answer = answer._replace(consuming=names[:1], resting=names[2:])

    graph = flow_map(shape, {}, [answer])

    edges = [edge for edge in graph.edges if edge.target == "worker:w@h"]
    assert [edge.source for edge in edges] == ["queue:q"]


def test_bindings_between_the_same_two_are_one_arrow() -> None:
    keys = ["a.#", "b.#"]
    bound = [{"exchange": "x", "queue": "q", "routing_key": key} for key in keys]
    graph = flow_map(topology(["x"], [{"name": "q"}], bound), {}, [])

    (edge,) = [edge for edge in graph.edges if edge.source == "exchange:x"]
    assert edge.routing_keys == ("a.#", "b.#")


def test_a_domain_of_ones_own_always_has_the_same_colour() -> None:
    assert colour_of("garden.bed1") == colour_of("garden") != colour_of("solar")
    assert colour_of("sensors.temperature") == "#86DAF1"
    assert colour_of("dead.letter.queue") == "#757575"


class TestPicture:
    @pytest.fixture
    def graph(self) -> FlowMap:
        bound = {"exchange": "x", "queue": "<b>&'q", "routing_key": "<i>"}
        shape = topology(["x"], [{"name": "<b>&'q"}], [bound])
        return flow_map(shape, {}, [])

    def changed(self, script: str) -> dict[str, list[str | None]]:
        found = re.search(r"Object\.entries\((.*)\)\) \{", script)
        assert found
        decoded: dict[str, list[str | None]] = json.loads(found[1])
        return decoded

    def test_names_from_outside_stay_text(self, graph: FlowMap) -> None:
        picture = Picture(graph)
        svg = picture.svg({"queue:<b>&'q": Look("</text><script>")}, "words")

        for drawn in (svg, picture.listing()):
            assert "&lt;b&gt;" in drawn
            assert "<b>" not in drawn
            assert "<script" not in drawn
            assert "<i>" not in drawn

    def test_only_what_changed_is_sent(self, graph: FlowMap) -> None:
        picture, key = Picture(graph), "queue:<b>&'q"
        picture.svg({key: Look("empty")}, "words")

        assert picture.changes({key: Look("empty")}, everything=False) == ""
        changed = self.changed(
            picture.changes({key: Look("</script>", rate_in=3.0)}, everything=False)
        )

        assert ["</script>", "more"] in changed.values()
        assert ["3.0/s", "rate end"] in changed.values()
        assert len(changed) == 3  # and the arrow, which is thicker now
