"""A mesh of a test's own, from its ``MESH_*`` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshtasks.amqp.connecting import connected
from meshtasks.amqp.declare import declare
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings


def declared(env: dict[str, str]) -> dict[str, str]:
    """The same variables, once the mesh's topology is declared on its broker."""
    settings = Settings(Environment(config_dir=Path(env["MESH_CONFIG_DIR"])))
    with connected(env["MESH_BROKER_URL"]) as connection:
        declare(connection, settings.read(TOPOLOGY))
    return env


def reconfigured(env: dict[str, str], directory: Path, **files: Any) -> dict[str, str]:
    """Variables of a mesh with a copy of the configuration in ``directory``.

    Args:
        env: the variables to begin with.
        directory: made, and filled with config/.
        files: for each file to replace, its name without ``.yaml`` and its content.
    """
    directory.mkdir()
    for file in Path(env["MESH_CONFIG_DIR"]).glob("*.yaml"):
        (directory / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        text = yaml.safe_dump(content)
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return {**env, "MESH_CONFIG_DIR": str(directory)}
