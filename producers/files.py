"""Files that others read while they are written."""

from __future__ import annotations

import json
from pathlib import Path

from meshtasks.config.private_files import write_private


def write_atomically(path: Path, data: object) -> None:
    """Replace a JSON file; a reader sees the old or the new one, never a part.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    write_private(draft, json.dumps(data) + "\n")
    draft.replace(path)
