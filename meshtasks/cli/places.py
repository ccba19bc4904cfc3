"""Which place a command looks at, where it may be another than is meant."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from meshtasks.cli.terminal import say
from meshtasks.config.environment import Environment


def tell_place(env: Environment, field: str) -> None:
    """Say on standard error which place a command looks at.

    Where docker-compose.yml is, and nothing else was named, the stack has a place of
    its own: then say how to look there.

    Args:
        field: of the environment, such as ``archive_url``.
    """
    text = f"{getattr(env, field)} (MESH_{field.upper()})"
    if field not in env.model_fields_set and Path("docker-compose.yml").is_file():
        command = shlex.join(sys.argv[1:])
        text += (
            ", which is not that of the containers of docker-compose.yml; theirs: "
            f"docker compose run --rm tools {command}"
        )
    say(text, err=True)
