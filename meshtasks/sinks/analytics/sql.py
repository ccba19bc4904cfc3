"""Values in SQL text, where DuckDB takes no parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable

_GLOB = re.compile(r"[*?\[]")


def quoted(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_files(paths: Iterable[str]) -> str:
    """A list of files, each taken by its name even if it looks like a pattern."""
    names = (_GLOB.sub(lambda found: f"[{found[0]}]", path) for path in paths)
    return f"[{', '.join(map(quoted, names))}]"
