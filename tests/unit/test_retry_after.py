"""The header ``Retry-After``."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from meshtasks.http import retry_after_seconds
from meshtasks.timing import LONGEST_ASKED_SECONDS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("17", 17.0),
        (" 0 ", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("9" * 400, LONGEST_ASKED_SECONDS),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_ASKED_SECONDS),
        ("Mon, 23 Nov 2020 13:00:00 GMT", 0.0),
    ],
)
def test_it_is_a_number_of_seconds_or_a_date(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after_seconds(value) == seconds


def test_a_date_is_counted_from_now() -> None:
    value = formatdate(time.time() + 60, usegmt=True)

    assert retry_after_seconds(value) == pytest.approx(60, abs=30)
