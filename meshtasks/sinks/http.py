"""What HTTP services say of themselves, whichever they are."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

#: Nobody is left alone for longer, whatever they ask for.
LONGEST_WAIT_SECONDS = 3_600.0


def retry_after_seconds(value: str | None) -> float | None:
    """How long a service asks us to wait: its ``Retry-After``.

    Args:
        value: the header: seconds or a date (RFC 9110, section 10.2.3).

    Returns:
        Seconds, an hour at most; None where there is no such header or it says
        neither.
    """
    if not value:
        return None
    if value.strip().isdecimal():
        wait = float(value)
    else:
        try:
            wait = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, wait), LONGEST_WAIT_SECONDS)
