"""Matchers: conditions on labels."""

from __future__ import annotations

import pytest

from meshtasks.flows.alerts.config import Matcher, all_match, parse_matcher

LABELS = {"severity": "critical", "location": "attic", "note": "a=b"}


@pytest.mark.parametrize(
    "text",
    [
        "severity=critical",
        'severity = "critical"',
        "severity!=info",
        "location=~attic|cellar",
        "location!~cell.*",
        "missing=",
        "missing!=x",
        "note=a=b",
        "missing=~",
    ],
)
def test_conditions_that_hold(text: str) -> None:
    assert parse_matcher(text).matches(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "severity=info",
        "severity!=critical",
        "location=~att",  # a regular expression matches the whole value
        "location!~att.*",
        "missing=x",
        "missing=~.+",
    ],
)
def test_conditions_that_do_not_hold(text: str) -> None:
    assert not parse_matcher(text).matches(LABELS)


@pytest.mark.parametrize("text", ["", "severity", "=critical", "a b=c", 3, None])
def test_what_is_no_matcher_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a matcher such as"):
        parse_matcher(text)


def test_a_bad_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        parse_matcher("location=~(attic")


def test_all_conditions_must_hold() -> None:
    both = [parse_matcher("severity=critical"), parse_matcher("location=cellar")]

    assert all_match(both[:1], LABELS)
    assert not all_match(both, LABELS)
    assert all_match([], LABELS)


def test_a_matcher_reads_as_it_was_written() -> None:
    assert str(parse_matcher('location =~ "attic|cellar"')) == "location=~attic|cellar"


@pytest.mark.parametrize("value", ["", "attic", '"attic"', " a ", '"', "a\nb", 'a"b'])
def test_a_matcher_is_read_back_from_its_text(value: str) -> None:
    matcher = Matcher("location", "=", value)

    assert parse_matcher(str(matcher)) == matcher
