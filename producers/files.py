"""Files that others read while they are written."""

from __future__ import annotations

import json
from pathlib import Path


def write_atomically(path: Path, data: object) -> None:
    """Replace a JSON file; a reader sees the old or the new one, never a part.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(json.dumps(data) + "\n", encoding="utf-8")
    draft.replace(path)
