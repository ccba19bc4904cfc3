"""What ``make docs`` adds to the pages: files from beside ``docs/`` that pages link to,
and the reference of commands, made from the commands themselves."""

from __future__ import annotations

from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from meshtasks.cli import loaded

_ROOT = Path(__file__).parent.parent
_BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "config/**/*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files and the page that are not in ``docs/``."""
    for pattern in _BESIDE:
        for path in sorted(filter(Path.is_file, _ROOT.glob(pattern))):
            uri = path.relative_to(_ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    files.append(File.generated(config, "cli.md", content=_commands()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links lead to where those files are in the site."""
    if page.file.src_uri == "CONTRIBUTING.md":
        return markdown.replace("](docs/decisions)", "](decisions/)").replace(
            "](docs/", "]("
        )
    up = "../" * page.file.src_uri.count("/")
    return markdown.replace(f"](../{up}", f"]({up}")


def _commands() -> str:
    command = loaded()
    with typer.Context(command, info_name="meshtasks") as context:
        return get_docs_for_click(obj=command, ctx=context, name="meshtasks")
