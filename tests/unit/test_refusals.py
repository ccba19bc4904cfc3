"""What answers of time-series stores say of the lines that they were sent."""

from __future__ import annotations

import json

import pytest

from meshtasks.flows.timeseries import refusal_in

PARTIAL = "failure writing points to database: partial write: "
CONFLICT = (
    PARTIAL + 'field type conflict: input field "{field}" on measurement '
    '"{measurement}" is type {new}, already exists as type {old} dropped={dropped}'
)
#: 2026-11-23, a Monday; and each a minute later.
T0_MS = 1_795_440_000_000


def line(minute: int, measurement: str = "m", field: str = "v=1.5") -> str:
    return f"{measurement},host=a {field} {T0_MS + minute * 60_000}"


def v2(message: str, code: str = "unprocessable entity") -> str:
    return json.dumps({"code": code, "message": message})


def conflict(
    dropped: int, measurement: str = "m", new: str = "float", old: str = "string"
) -> str:
    said = CONFLICT.format(
        field="v", measurement=measurement, new=new, old=old, dropped=dropped
    )
    return v2(said)


def selected(status: int, body: str, lines: list[str]) -> list[int] | None:
    """The lines that are named; None if the answer is not about lines."""
    refusal = refusal_in(status, body, lines)
    return None if refusal is None else sorted(refusal.selected)


# --- whose fault it is


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, v2("Please provide either orgID or org", "invalid")),
        (400, "Client sent an HTTP request to an HTTPS server.\n"),
        (400, v2("invalid precision; valid precision units are ns", "invalid")),
        (400, "<html><body>400 Bad Request</body></html>"),
        (400, ""),
        (400, "[]"),
        (400, '{"message": 17}'),
        (400, "[" * 100_000),
        (422, v2('bucket "partial write: dropped=2" cannot be used')),
        (404, v2("partial write: dropped=1")),
        (500, v2(PARTIAL + "engine is closed dropped=1", "internal error")),
        (401, "unable to parse 'm v=1': authentication"),
        (
            400,
            'remoteAddr: "::1"; requestURI: /x/api/v2/write; unsupported path "/x"',
        ),
    ],
)
def test_what_is_not_about_lines_is_the_stores_fault(status: int, body: str) -> None:
    assert refusal_in(status, body, [line(0)]) is None


@pytest.mark.parametrize(
    "name", ["missing route", "unsupported path", "dropped=2", "database is required"]
)
def test_names_decide_nothing(name: str) -> None:
    escaped = name.replace(" ", "\\ ").replace("=", "=")
    lines = [line(0, escaped), line(1, "m"), line(2, escaped, 'v="x"')]

    assert selected(422, conflict(1, name), lines) == [0]


# --- which lines


def test_lines_of_the_type_that_conflicts_are_named_if_their_number_fits() -> None:
    lines = [line(n, field="v=1.5" if n % 2 else 'v="open"') for n in range(6)]

    assert selected(422, conflict(3), lines) == [1, 3, 5]
    assert selected(422, conflict(2), lines) == []
    assert selected(422, conflict(6), lines) == [0, 1, 2, 3, 4, 5]


def test_a_conflict_says_which_type_is_kept_until_when() -> None:
    refusal = refusal_in(422, conflict(1), [line(0)])

    assert refusal is not None
    assert "already exists as type string" in refusal.selected[0]
    assert "here string until 2026-11-30" in refusal.selected[0]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        *[("1", "float"), ("-1.5e3", "float"), ("1i", "integer"), ("1u", "unsigned")],
        *[("true", "boolean"), ("f", "boolean"), (r'"a\\"b, v=1"', "string")],
    ],
)
def test_the_type_of_a_value_is_read_from_its_line(value: str, word: str) -> None:
    lines = [line(0, field=f"w=1,v={value},x=2"), line(1, field=f"w={value}")]

    assert selected(422, conflict(1, new=word), lines) == [0]


def test_escaped_names_are_found() -> None:
    said = CONFLICT.format(
        field="a=b c", measurement="m, n", new="float", old="integer", dropped=1
    )
    lines = [line(0, r"m\,\ n", r"a\=b\ c=1"), line(1, r"m\,\ n", "a=1")]

    assert selected(422, v2(said), lines) == [0]


def test_of_points_that_are_too_old_the_oldest_are_meant() -> None:
    said = (
        PARTIAL + "dropped 2 points outside retention policy of duration 24h0m0s - "
        "oldest point m,host=a at 2026-11-23T13:20:00Z dropped because it violates a "
        "Retention Policy Lower Bound at 2026-11-23T13:21:30Z, newest point m,host=a "
        "at 2026-11-23T13:21:00Z dropped because it violates a Retention Policy Lower "
        "Bound at 2026-11-23T13:21:30Z dropped=2 for database: 9f28 for retention "
        "policy: autogen"
    )
    lines = [line(3), line(0), line(2), line(1)]

    assert selected(422, v2(said), lines) == [1, 3]


def test_version_1_does_not_say_how_old_they_may_be() -> None:
    said = "partial write: points beyond retention policy dropped=1"

    assert selected(400, json.dumps({"error": said}), [line(1), line(0)]) == [1]


def test_if_it_is_not_clear_which_are_the_oldest_none_is_named() -> None:
    said = "partial write: points beyond retention policy dropped=1"

    assert selected(400, json.dumps({"error": said}), [line(0), line(0), line(1)]) == []


def test_lines_that_cannot_be_parsed_are_quoted() -> None:
    lines = ["m v=1 1", "m v= 2", "it's': a bad line", "m v=2 3", "m v= 2"]
    said = (
        "unable to parse 'm v= 2': missing field value\n"
        "unable to parse 'it's': a bad line': invalid field format\n"
        "unable to parse 'm v= 2': missing field value"
    )

    assert selected(400, v2(said, "invalid"), lines) == [1, 2, 4]


def test_a_quoted_line_that_was_not_sent_names_none() -> None:
    said = "unable to parse 'm v=': missing field value"

    assert selected(400, v2(said, "invalid"), [line(0), line(1)]) == []


def test_version_3_gives_their_numbers() -> None:
    data = [{"error_message": "no fields", "line_number": 2, "original_line": "m"}]
    body = {"error": "partial write of line protocol occurred", "data": data}

    assert selected(400, json.dumps(body), [line(0), "m", line(1)]) == [1]
    assert selected(400, json.dumps(body), [line(0)]) == []


def test_victoriametrics_quotes_all_that_follows_so_none_is_named() -> None:
    body = (
        'remoteAddr: "10.0.0.9:1"; requestURI: /api/v2/write?org=home; incorrect '
        'influx line "m v": cannot find Whitespace'
    )

    assert selected(400, body, [line(0), "m v"]) == []


def test_a_long_answer_keeps_its_beginning_and_its_end() -> None:
    long = f'm t="{"x" * 5_000}"'
    said = f"unable to parse '{long}': invalid field format"

    refusal = refusal_in(400, v2(said, "invalid"), [long])

    assert refusal is not None
    assert len(refusal.selected[0]) < 500
    assert "unable to parse 'm t=" in refusal.selected[0]
    assert refusal.selected[0].endswith("invalid field format")
