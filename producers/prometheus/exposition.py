"""Pages of metrics in Prometheus's text format or in OpenMetrics, as families.

The formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and
https://prometheus.io/docs/specs/om/open_metrics_spec/.
"""

from __future__ import annotations

from prometheus_client import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from meshtasks.errors import MeshError
from meshtasks.text import clip
from producers.collecting import Unforeseen, contained
from producers.http import Page

#: The older format first: most services that say they speak OpenMetrics do, and a
#: few break its stricter rules.
ACCEPT = (
    "text/plain;version=0.0.4;charset=utf-8,"
    "application/openmetrics-text;version=1.0.0;charset=utf-8;q=0.5"
)

_OPENMETRICS = "application/openmetrics-text"


class Unreadable(MeshError):
    """A page cannot be used; the text says why."""


def families(page: Page, series_limit: int) -> list[Family]:
    """The metric families of a page; all of them, or none.

    Raises:
        Unreadable: it is in neither format, breaks off, or has more series than
            ``series_limit``.
    """
    # Counted first, since a page that is far too long takes seconds to parse.
    series = sum(
        bool(line) and not line.startswith(b"#") for line in page.body.splitlines()
    )
    if series > series_limit:
        message = (
            f"shows {series:,} series, more than series_limit ({series_limit:,}); let "
            "it show fewer, or raise the limit"
        )
        raise Unreadable(message)
    strict = page.content_type.partition(";")[0].strip().lower() == _OPENMETRICS
    parse = (
        openmetrics.text_string_to_metric_families
        if strict
        else text_string_to_metric_families
    )
    try:
        with contained():  # prometheus_client's parsers raise whatever they meet
            return list(parse(page.body.decode()))
    except Unforeseen as error:
        kind = "OpenMetrics" if strict else "Prometheus's text format"
        shown = clip(page.content_type or "no type")
        message = f"shows what is not {kind} ({shown}): {error}"
        raise Unreadable(message) from error
