"""Which routing keys a topic pattern matches."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshtasks.amqp.entities import patterns_overlap, topic_matches

_keys = st.lists(st.sampled_from(["a", "b", ""]), max_size=6).map(".".join)
_patterns = st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=6).map(
    ".".join
)


def by_definition(pattern: list[str], words: list[str]) -> bool:
    """The meaning of ``*`` and ``#``, tried out word by word."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(
            by_definition(rest, words[taken:]) for taken in range(len(words) + 1)
        )
    if not words or first not in ("*", words[0]):
        return False
    return by_definition(rest, words[1:])


@given(_patterns, _keys)
@example("", "")
@example("#", "")
@example("*", "")
@example("a..b", "a..b")
def test_it_matches_what_the_definition_says(pattern: str, key: str) -> None:
    expected = by_definition(
        pattern.split(".") if pattern else [], key.split(".") if key else []
    )
    assert topic_matches(pattern, key) is expected


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("sensors.temperature.#", "sensors.temperature"),
        ("sensors.temperature.#", "sensors.temperature.cellar.left"),
        ("home.*.*.state_changed", "home.light.kitchen.state_changed"),
        ("#.state_changed", "home.light.kitchen.state_changed"),
        ("#", "anything.at.all"),
    ],
)
def test_a_binding_of_the_mesh_matches_its_keys(pattern: str, key: str) -> None:
    assert topic_matches(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("sensors.temperature.#", "sensors.temperatures"),
        ("home.*.*.state_changed", "home.kitchen.state_changed"),
        ("sensors.*", "sensors"),
        ("sensors", "Sensors"),
        ("a.b", "a?b"),
    ],
)
def test_a_binding_of_the_mesh_leaves_other_keys_alone(pattern: str, key: str) -> None:
    assert not topic_matches(pattern, key)


def test_a_pattern_of_many_wildcards_is_no_burden() -> None:
    pattern = "#.a." * 60 + "#.z"
    assert not topic_matches(pattern, "a." * 120 + "b")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "*.b", True),
        ("a.#", "#.b", True),
        ("a.#", "b.#", False),
        ("#", "", True),
        ("*", "", False),
        ("a.*.c", "a.#", True),
        ("a.*", "a.b.c", False),
        ("a.#.z", "a.b.*", True),
    ],
)
def test_two_patterns_overlap_if_one_key_matches_both(
    one: str, other: str, *, overlap: bool
) -> None:
    assert patterns_overlap(one, other) is overlap
    assert patterns_overlap(other, one) is overlap
