"""The snippets of the documentation: fenced blocks, with their language and place."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^([ >]*)(`{3,}|~{3,})(.*)$")
#: The first line of a block that is part of a file: ``# config/kinds.yaml``.
_FILE = re.compile(r"# (\S+\.ya?ml)$")


class Snippet(NamedTuple):
    """A fenced block.

    Attributes:
        page: the file it stands in.
        line: of its fence, from 1.
        language: what the fence names; empty if it names none.
        text: what is in it, less the indentation of the fence.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def id(self) -> str:
        """Where it is."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str:
        """The file that it is a part of; empty if its first line names none."""
        found = _FILE.match(self.text.partition("\n")[0])
        return found[1] if found else ""


def snippets(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    for number, line in lines:
        if not (opening := _FENCE.match(line)):
            continue
        indent, fence, language = opening.groups()
        inside: list[str] = []
        for _, text in lines:
            if text.strip(" >") == fence:
                break
            inside.append(text.removeprefix(indent))
        text = textwrap.dedent("\n".join(inside))
        yield Snippet(page, number, language.strip(), f"{text}\n")


def with_snippets(page: Path, config: Path) -> dict[str, Any]:
    """The files of a configuration, by name, as they are when what a page shows of
    them is added: keys beside those that are there, items behind them."""
    files: dict[str, Any] = {}
    for snippet in snippets(page):
        if snippet.file.startswith("config/"):
            name = snippet.file.removeprefix("config/").removesuffix(".yaml")
            if name not in files:
                files[name] = yaml.safe_load((config / f"{name}.yaml").read_text())
            files[name] = _added(files[name], yaml.safe_load(snippet.text))
    return files


def _added(content: Any, more: Any) -> Any:
    if isinstance(content, list) and isinstance(more, list):
        return [*content, *more]
    if isinstance(content, dict) and isinstance(more, dict):
        both = {key: _added(content[key], more[key]) for key in content if key in more}
        return {**content, **more, **both}
    return more
