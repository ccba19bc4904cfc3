"""Messages that gave trouble elsewhere, as public reports have them, and what becomes
of each of their values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.devices import (
    DIRECTORY,
    NOW,
    Devices,
    document_at,
    records,
    values,
)

_REPORTED = document_at(DIRECTORY / "reported.yaml")
_SOURCES = {
    "announced": [
        {"topic": "homeassistant/#", "format": "discovery"},
        {"topic": "#", "format": "announced"},
    ]
}


@pytest.mark.parametrize("name", _REPORTED)
def test_every_value_of_a_reported_message_becomes_what_it_is(name: str) -> None:
    case = _REPORTED[name]
    changes = {"sources": _SOURCES[case["sources"]]} if "sources" in case else {}
    devices = Devices(**changes)
    published: list[dict[str, Any]] = []
    times: dict[str, float] = {}
    counted: Counter[tuple[str, str]] = Counter()
    for message in case["messages"]:
        received_at = message.get("received_at", NOW)
        normalised = devices.publish(message["topic"], message["body"], received_at)

        assert normalised.dead is None
        published += [{key: said} for key, said in values(normalised).items()]
        times |= {
            key: record["timestamp"]
            for key, record in records(normalised).items()
            if record["timestamp"] != received_at
        }
        counted += normalised.counted + normalised.remarks

    assert published == [
        {key: tuple(said) if isinstance(said, list) else said}
        for each in case["published"]
        for key, said in each.items()
    ]
    assert times == case.get("times", {})
    assert counted == _counted(case["counted"])


def _counted(expected: dict[str, list[str] | int]) -> Counter[tuple[str, str]]:
    """As the normaliser counts: names of values, or messages without a look at any."""
    found: Counter[tuple[str, str]] = Counter()
    for reason, names in expected.items():
        if isinstance(names, int):
            found[reason, ""] += names
        else:
            found.update((reason, name) for name in names)
    return found
