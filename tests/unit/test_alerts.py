"""The alert record."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshtasks.records.alert import Alert


def alert(**fields: object) -> Alert:
    given = {"title": "t", "message": "m", "severity": "info", "source": "backup"}
    return Alert.model_validate(given | fields)


def test_source_and_labels_identify_an_alert_and_its_text_does_not() -> None:
    one = alert(labels={"host": "nas", "disk": "1"})
    reworded = alert(labels={"disk": "1", "host": "nas"}, title="x", resolved=True)
    other = alert(labels={"host": "nas", "disk": "2"})

    assert one.fingerprint == reworded.fingerprint
    assert one.fingerprint != other.fingerprint


def test_a_given_fingerprint_is_kept() -> None:
    assert alert(fingerprint="abc").fingerprint == "abc"


def test_it_survives_its_own_json() -> None:
    one = alert(labels={"a": "b"}, starts_at="2026-11-23T13:12:00Z", room="attic")

    assert Alert.model_validate_json(one.model_dump_json()) == one


def test_a_start_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        alert(starts_at="2026-11-23T13:12:00")


@pytest.mark.parametrize("field", ["title", "message", "severity", "source"])
def test_each_of_these_is_required(field: str) -> None:
    given = {"title": "t", "message": "m", "severity": "info", "source": "backup"}
    del given[field]

    with pytest.raises(ValidationError) as caught:
        Alert.model_validate(given)

    assert caught.value.errors()[0]["loc"] == (field,)
