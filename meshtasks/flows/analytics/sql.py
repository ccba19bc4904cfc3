"""Values in SQL text, where DuckDB takes no parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_GLOB = re.compile(r"[*?\[]")


def quoted(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_files(paths: Iterable[str]) -> str:
    """A list of files, each taken by its name even if it looks like a pattern."""
    return f"[{', '.join(map(quoted, file_patterns(paths)))}]"


def file_patterns(paths: Iterable[str]) -> Iterator[str]:
    """For each file the pattern that matches it alone."""
    return (_GLOB.sub(lambda found: f"[{found[0]}]", path) for path in paths)
