"""Files that ``meshtasks init`` writes: never over what somebody has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from meshtasks.config.environment import SHIPPED_CONFIG
from meshtasks.config.private_files import make_private_directory, replace_private

#: Beside the shipped configuration, in the package as in a clone.
COMPOSE_FILE = SHIPPED_CONFIG.with_name("docker-compose.yml")
PROCFILE = SHIPPED_CONFIG.with_name("Procfile")

#: What was written, by path: SHA-256.
_MEMORY = Path(".mesh/written.json")
#: Other accounts read it, those of containers too, whatever the umask is.
_SHARED_FILE, _SHARED_DIRECTORY = 0o644, 0o755


class Scaffold:
    """Writes files below the current directory, and keeps account of them.

    What was written is remembered by its hash, so that after an upgrade a file that
    nobody has changed is replaced by the new version's.

    Attributes:
        written: how many are new, or were replaced.
        kept: those that somebody has changed.
        same: how many are as they would be written.
    """

    def __init__(self, *, replace: bool) -> None:
        """Args: replace: also files that somebody has changed."""
        self._replace = replace
        self._hashes: dict[str, str] = {}
        if _MEMORY.is_file():
            with suppress(ValueError):  # cut short by a full disk: all files are kept
                self._hashes = dict(json.loads(_MEMORY.read_bytes()))
        self.written = self.same = 0
        self.kept: list[Path] = []

    def write(self, path: Path, content: bytes) -> None:
        """Write a file, if there is none or it may be replaced.

        A reader, and whoever interrupts this, sees the old file or the new one.

        Raises:
            OSError: it cannot be written; names the file.
        """
        place = Path(os.path.realpath(path))  # a symbolic link stays one
        found = place.read_bytes() if place.exists() else None
        if found == content:
            self.same += 1
            self._hashes[str(path)] = _hash(content)
            return
        is_mine = found is not None and _hash(found) == self._hashes.get(str(path))
        if found is not None and not is_mine and not self._replace:
            self.kept.append(path)
            return
        make_directory(place.parent)
        with NamedTemporaryFile(dir=place.parent, delete=False) as draft:
            try:
                draft.write(content)
                os.fchmod(draft.fileno(), _SHARED_FILE)
                draft.flush()
                os.fsync(draft.fileno())
                Path(draft.name).replace(place)
            except BaseException:
                Path(draft.name).unlink()
                raise
        give_to_owner(path)
        self._hashes[str(path)] = _hash(content)
        self.written += 1

    def remember(self) -> None:
        """Keep the hashes for the next time.

        Raises:
            OSError: they cannot be written.
        """
        make_private_directory(_MEMORY.parent)
        replace_private(_MEMORY, json.dumps(self._hashes, indent=1))
        give_to_owner(_MEMORY)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_directory(path: Path) -> None:
    """Make a directory with its parents, whatever the umask; one that is there keeps
    its mode.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir()
    path.chmod(_SHARED_DIRECTORY)


def give_to_owner(*paths: Path) -> None:
    """What root makes in somebody's directory is theirs, with the directories between.

    Raises:
        OSError: a file system has no owners.
    """
    if os.geteuid() != 0:
        return
    owner = Path.cwd().stat()
    for path in paths:
        for each in (path, *path.parents[:-1]):
            os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)


def shipped_files() -> Iterator[tuple[Path, bytes]]:
    """What the package ships in config/, as paths below the current directory."""
    for path in sorted(SHIPPED_CONFIG.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield Path("config", path.relative_to(SHIPPED_CONFIG)), path.read_bytes()
