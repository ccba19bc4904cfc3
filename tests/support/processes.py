"""Find processes, to see that none was left behind."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def processes_of(directory: Path) -> list[str]:
    """Command lines of the processes whose environment or arguments name it."""
    needle = str(directory).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        # Processes come and go meanwhile, and some are other users' own.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command = (process / "cmdline").read_bytes()
            if needle in command + b"\0" + (process / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found
