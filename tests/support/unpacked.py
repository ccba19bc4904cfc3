"""Programs of the tests that come as packages which nobody should have to install: they
are unpacked beside the system, which needs no root and starts no service.

``python -m tests.support.unpacked`` makes virtual environments of the tests, too; it
says nothing and takes no time when all is there.
The packages are those of the system's own archive. Where that has none, or none that
is new enough, there is no program, and the tests that need it are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from meshtasks.demo.packages import (
    DATA,
    InstallFailed,
    candidate,
    run,
)
from tests.support.environments import ensure_environments

_DIRECTORY = DATA / "unpacked"
_VERSION = re.compile(r"(?:\d+:)?(\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A program out of a package.

    Attributes:
        name: what it is to those who read why a test was skipped.
        packages: its names in Debian and Ubuntu, the preferred one first.
        oldest: the first version that will do.
        path: of the program, in the package.
        installed: where else it may be, on a machine that has it anyway.
        directory: it is unpacked here.
    """

    name: str
    packages: tuple[str, ...]
    oldest: tuple[int, ...]
    path: str
    installed: tuple[str, ...] = ()
    directory: Path = _DIRECTORY

    @property
    def program(self) -> Path:
        """Where the program is, or would be."""
        unpacked = self.directory / self.packages[0] / "root" / self.path
        places = (unpacked, *(Path(each).expanduser() for each in self.installed))
        return next((place for place in places if place.is_file()), unpacked)

    def absent(self) -> str | None:
        """Why there is no program; None if there is."""
        if self.program.is_file():
            return None
        version = ".".join(map(str, self.oldest))
        return f"this release has no package of {self.name} {version} or newer"

    def ensure(self) -> None:
        """Unpack the package, unless that was done, or there is none.

        Raises:
            InstallFailed: apt-get or dpkg-deb failed; the text says why.
        """
        target = self.directory / self.packages[0]
        ready = target / ".ready"
        versions = {each: candidate(each) for each in self.packages}
        package = next(
            (each for each in self.packages if self._will_do(versions[each])), None
        )
        wanted = f"{package} {versions[package]}\n" if package else ""
        if ready.exists() and ready.read_text() == wanted:
            return
        shutil.rmtree(target, ignore_errors=True)
        if package is None:
            return
        sys.stderr.write(f"meshtasks: unpacking {package} for the tests\n")
        target.mkdir(parents=True)
        run(["apt-get", "-q", "download", package], directory=target)
        (archive,) = target.glob(f"{package}_*.deb")
        run(["dpkg-deb", "-x", archive.name, "root"], directory=target)
        archive.unlink()
        ready.write_text(wanted)

    def _will_do(self, version: str | None) -> bool:
        found = _VERSION.match(version or "")
        if found is None:
            return False
        return tuple(map(int, found[1].split("."))) >= self.oldest


#: The plugin of Docker's command line, which runs on its own, too. Debian 12's
#: docker-compose is version 1; Ubuntu has both under names of their own.
COMPOSE = Unpacked(
    "Docker Compose",
    ("docker-compose-v2", "docker-compose"),
    (2,),
    "usr/libexec/docker/cli-plugins/docker-compose",
    installed=(
        "/usr/libexec/docker/cli-plugins/docker-compose",
        "/usr/lib/docker/cli-plugins/docker-compose",
        "/usr/local/lib/docker/cli-plugins/docker-compose",
        "~/.docker/cli-plugins/docker-compose",
    ),
)
#: Notifications that replace earlier ones came with 2.16; Debian 13 has 2.11.
NTFY = Unpacked("ntfy", ("ntfy",), (2, 11), "usr/bin/ntfy", ("/usr/bin/ntfy",))


def main() -> int:
    """Unpack what there is; the exit code, of sysexits.h."""
    try:
        ensure_environments()
        for each in (COMPOSE, NTFY):
            each.ensure()
    except InstallFailed as error:
        sys.stderr.write(f"meshtasks: {error}\n")
        return os.EX_UNAVAILABLE
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
