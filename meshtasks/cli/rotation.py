"""``meshtasks secrets --rotate``: what changes where an old password stands."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import yaml
from dotenv.parser import parse_stream

from meshtasks.config.private_files import replace_private
from meshtasks.config.urls import urls_of

#: What cannot be had anew, and why.
KEPT = {
    "N8N_ENCRYPTION_KEY": "n8n could not read the credentials that it keeps any more",
}
#: ``name:scopes:token``; names and scopes are a person's.
_API_TOKEN = re.compile(r"([^\s,:]+:[^\s,:]+:)[^\s,]+")


def replaced(known: Mapping[str, str], variable: str, new: Callable[[str], str]) -> str:
    """The new value of a variable; of the gateway's tokens, names and scopes stay."""
    if variable == "MESH_API_TOKENS":
        return _API_TOKEN.sub(lambda found: found[1] + new(variable), known[variable])
    return new(variable)


def replace_values(env_file: Path, values: Mapping[str, str]) -> None:
    """Write new values into a file such as ``.env``; all else in it stays as it is.

    Raises:
        OSError: it cannot be written; it is as it was.
    """
    text = env_file.read_text(encoding="utf-8")
    parts = []
    for binding in parse_stream(io.StringIO(text)):
        original = binding.original.string
        if binding.key is not None and binding.key in values:
            # blank lines before an assignment belong to it
            before = original[: len(original) - len(original.lstrip())]
            exported = "export " if original.lstrip().startswith("export") else ""
            original = f"{before}{exported}{binding.key}={values[binding.key]}\n"
        parts.append(original)
    replace_private(env_file, "".join(parts))


def as_account(broker_url: str, account: str, password: str) -> str:
    """An AMQP URL, or those of a cluster's nodes, with another account."""
    login = f"{quote(account, safe='')}:{quote(password, safe='')}"
    return ";".join(
        (parts := urlsplit(url))
        ._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}")
        .geturl()
        for url in urls_of(broker_url)
    )


def services_with(variables: Iterable[str], compose_file: Path) -> list[str]:
    """The services of a compose file that are given one of these variables."""
    names = "|".join(map(re.escape, variables))
    if not names or not compose_file.is_file():
        return []
    services = yaml.safe_load(compose_file.read_text(encoding="utf-8"))["services"]
    given = re.compile(rf"\$\{{(?:{names})\b")
    return [name for name in services if given.search(json.dumps(services[name]))]
