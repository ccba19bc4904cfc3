"""Any device that announces itself: its discovery messages say what its topics hold.

For devices without a module here.
"""

from __future__ import annotations

from collections.abc import Sequence

from producers.sensornet.discovery import Announced
from producers.sensornet.payload import (
    COMPUTED,
    Ignored,
    Judgement,
    Passed,
    Path,
    Payload,
    document_of,
    json_of,
)

_NOT_ANNOUNCED = "not announced"


def parse(
    levels: Sequence[str], body: bytes, announced: Sequence[Announced]
) -> Payload | Ignored:
    """The values of a topic that was announced.

    Raises:
        InvalidMessage: a value is announced inside JSON, and the body is none.
    """
    if not announced:
        return Ignored(_NOT_ANNOUNCED)
    templates = [entity.template for entity in announced]
    # What is computed in a way that is not understood may be made of anything.
    others = COMPUTED if any(not each.paths for each in templates) else _NOT_ANNOUNCED

    def judge(_path: Path, _raw: object) -> Judgement:
        return Passed(others)

    inside = any(path for each in templates for path in each.paths)
    document = json_of(body) if inside else document_of(body)
    return Payload("/".join(levels), document, judge, name=levels[-1] or "the body")
