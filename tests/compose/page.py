"""docs/docker.md as commands: those of a section run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.docs import DOCS, snippets

PAGE = DOCS / "docker.md"

_HEADING = re.compile(r"^#+ (.+)$")


def sections(page: Path = PAGE) -> dict[str, list[str]]:
    """The blocks of commands under each heading of the page."""
    headings: dict[int, str] = {}
    fenced = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and (found := _HEADING.match(line)):
            headings[number] = found[1]
    blocks: dict[str, list[str]] = {}
    for snippet in snippets(page):
        if snippet.language == "sh":
            above = max(number for number in headings if number < snippet.line)
            blocks.setdefault(headings[above], []).append(snippet.text)
    return blocks
