"""Any device that announces itself: its discovery messages say what its topics hold.

For devices without a module here. Values that need a computation are not read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from producers.sensornet.discovery import Announced, value_at
from producers.sensornet.payload import json_of, text_of
from producers.sensornet.report import Ignored, Report


def parse(
    levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Report | Ignored:
    """The readings of a topic that was announced.

    Raises:
        InvalidMessage: a value is announced inside JSON, and the body is none.
    """
    readable = [entity for entity in announced if entity.path is not None]
    if not readable:
        return Ignored("computed by a template" if announced else "not announced")
    report = Report("/".join(levels))
    for entity in readable:
        raw = _value(body, entity)
        report.add(entity.kind, raw, entity.entity, part=entity.entity)
    return report


def _value(body: bytes, entity: Announced) -> object:
    if not entity.path:
        return text_of(body)
    value = value_at(json_of(body), entity.path)
    return json.dumps(value) if isinstance(value, dict | list) else value
