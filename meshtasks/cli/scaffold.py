"""Files that ``meshtasks init`` writes: never over what somebody has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile

from meshtasks.config.environment import SHIPPED_CONFIG

#: Beside the shipped configuration, in the package as in a clone.
COMPOSE_FILE = SHIPPED_CONFIG.with_name("docker-compose.yml")
PROCFILE = SHIPPED_CONFIG.with_name("Procfile")

#: Other accounts read it, those of containers too, whatever the umask is.
_SHARED_FILE, _SHARED_DIRECTORY = 0o644, 0o755


class Scaffold:
    """Writes files below the current directory, and keeps account of them.

    Attributes:
        written: how many are new, or were replaced.
        kept: those that somebody has changed.
        same: how many are as they would be written.
    """

    def __init__(self, *, replace: bool) -> None:
        """Args: replace: also files that somebody has changed."""
        self._replace = replace
        self.written = self.same = 0
        self.kept: list[Path] = []

    def write(self, path: Path, content: bytes) -> None:
        """Write a file, if there is none or it may be replaced.

        A reader, and whoever interrupts this, sees the old file or the new one.

        Raises:
            OSError: it cannot be written; names the file.
        """
        place = Path(os.path.realpath(path))  # a symbolic link stays one
        is_there = place.exists()
        if is_there and place.read_bytes() == content:
            self.same += 1
            return
        if is_there and not self._replace:
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
        self.written += 1


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
