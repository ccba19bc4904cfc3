"""``meshtasks flow``: the flows of this environment, and a package for a new one."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.terminal import EXIT_USAGE, fail, say
from meshtasks.config.settings import load_settings
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.config import GATEWAY
from meshtasks.text import clip

app = typer.Typer()

_NAME = re.compile(r"(?!(?:null|true|false|amq)$)[a-z](?:[a-z0-9_]{0,29}[a-z0-9])?")
#: Files of the package: template → path, where ``NAME`` is the name of the flow.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "__init__.py": "mesh_NAME/__init__.py",
    "config.py": "mesh_NAME/config.py",
    "flow.py": "mesh_NAME/flow.py",
    "handler.py": "mesh_NAME/handler.py",
    "name.yaml": "mesh_NAME/NAME.yaml",
    "test_name.py": "tests/test_NAME.py",
}


@app.command("list")
def list_flows() -> None:
    """List the flows: built in, and of installed packages.

    Exit codes: 0 listed; 78 a flow cannot be loaded.
    """
    flows = load_flows()
    for flow in flows.flows:
        package = flows.packages[flow.name] or "built in"
        queues = ", ".join(handler.queue for handler in flow.handlers) or "no queue"
        say(f"{flow.name:<12} {package:<24} {queues}")


@app.command()
def new(
    name: Annotated[
        str,
        typer.Argument(help="Name of the flow: lower-case letters, digits and _."),
    ],
    into: Annotated[
        Path,
        typer.Option(
            help="Directory in which the directory of the package is created."
        ),
    ] = Path(),
) -> None:
    """Write a package with a new flow: handler, configuration and tests.

    When the package is installed in the environment of the mesh, its flow is part of
    the mesh. The README of the package has the lines that topology.yaml needs.

    Exit codes: 0 written; 2 the name is invalid or in use, or the directory exists or
    cannot be created.
    """
    if not _NAME.fullmatch(name):
        fail(
            f"{clip(name)!r} cannot be the name of a flow: use a to z, 0 to 9 and, "
            "between them, _; at most 31 of them, and not null, true, false or amq",
            EXIT_USAGE,
        )
    _check_is_free(name)
    distribution = f"mesh-{name.replace('_', '-')}"
    directory = into / distribution
    if directory.exists():
        fail(f"{directory} exists already", EXIT_USAGE)
    words = {"name": name, "package": f"mesh_{name}", "distribution": distribution}
    templates = files("meshtasks.cli") / "flow_template"
    try:
        for template, place in _FILES.items():
            text = (templates / f"{template}.tmpl").read_text(encoding="utf-8")
            path = directory / place.replace("NAME", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8")
    except OSError as error:
        fail(f"{directory} cannot be written: {error.strerror}", EXIT_USAGE)
    say(f"Wrote {directory}; its README.md has the next steps.")


def _check_is_free(name: str) -> None:
    """End the command if the mesh has a flow, file, exchange or queue of this name."""
    flows = load_flows()
    if name in flows.packages:
        fail(
            f"there is a flow {name} already; `meshtasks flow list` has all", EXIT_USAGE
        )
    topology = load_settings().read(TOPOLOGY)
    taken = {f"exchange {each.name}" for each in topology.exchanges}
    taken |= {f"queue {each}" for each in topology.queue_names}
    taken |= {f"file {file.name}" for file in (*flows.files, GATEWAY)}
    for own in (f"file {name}.yaml", f"exchange {name}", f"queue {name}.records"):
        if own in taken:
            fail(f"the mesh has the {own} already; choose another name", EXIT_USAGE)
