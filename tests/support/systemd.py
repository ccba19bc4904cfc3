"""Units are run as systemd runs them, where there is no systemd to do it."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from pathlib import Path

from meshtasks.demo.process import Process


class Unit:
    """A service's unit file, as far as ours use the syntax of systemd.service(5)."""

    def __init__(self, path: Path, instance: str = "") -> None:
        self._values: dict[str, list[str]] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self._values[key].append(_expanded(value, instance))

    def one(self, key: str) -> str:
        """The value of a key that is there once."""
        (value,) = self._values[key]
        return value

    @property
    def environment(self) -> dict[str, str]:
        """What ``EnvironmentFile=`` and ``Environment=`` add."""
        found = dict(each.split("=", 1) for each in self._values["Environment"])
        for file in self._values["EnvironmentFile"]:
            found |= variables(Path(file).read_text(encoding="utf-8"))
        return found

    def process(self, log: Path) -> Process:
        """What ``ExecStart=`` runs, to be started."""
        environment = {"PATH": os.environ["PATH"], **self.environment}
        words: list[str] = []
        for word in shlex.split(self.one("ExecStart")):
            if found := re.fullmatch(r"\$(\w+)", word):
                words += environment.get(found[1], "").split()
            else:
                words.append(word.replace("$$", "$"))
        directory = Path(self.one("WorkingDirectory"))
        return Process(log.stem, words, log_path=log, env=environment, cwd=directory)


def _expanded(value: str, instance: str) -> str:
    specifiers = {"%i": instance, "%%": "%"}
    return re.sub("%.", lambda found: specifiers[found[0]], value)


def variables(text: str) -> dict[str, str]:
    """The content of a file of ``EnvironmentFile=`` (systemd.exec(5)): in double
    quotes a backslash escapes quotation marks, backslashes, backquotes and dollars."""
    found = {}
    for line in text.splitlines():
        if line.strip() and line[0] not in "#;":
            name, _, value = line.partition("=")
            if value.startswith('"'):
                assert re.fullmatch(r'"(?:[^"\\]|\\["\\`$])*"', value), line
                value = re.sub(r'\\(["\\`$])', r"\1", value[1:-1])
            assert re.fullmatch(r"[A-Z_]+", name), line
            found[name] = value
    return found
