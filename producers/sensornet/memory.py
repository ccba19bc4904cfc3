"""What devices announced, kept in a file from one run to the next.

Discovery messages are sent seldom (when a device or Home Assistant starts), and the
broker hands retained ones to MQTT clients only, not to a queue.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from meshtasks.config.private_files import make_private_directory, write_private
from meshtasks.errors import ConfigError
from producers.sensornet.announcements import Announcements, Book

logger = logging.getLogger(__name__)


class Memory:
    """The file.

    Args:
        path: made at the first change, with its directory.

    Raises:
        ConfigError: it holds something else.

    Attributes:
        announcements: what it held; to be added to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.announcements = Announcements(_read(path).root)

    def save(self) -> None:
        """Write what is new. A disk that is full is logged, and tried again with the
        next change: readings need not wait for it."""
        if not self.announcements.changed:
            return
        written = self._path.with_suffix(".new")
        try:
            make_private_directory(self._path.parent)
            write_private(written, self.announcements.book.model_dump_json())
            written.replace(self._path)
        except OSError as error:
            logger.error("cannot keep what devices announced: %s", error)  # noqa: TRY400 - the text says it
        else:
            self.announcements.changed = False


def _read(path: Path) -> Book:
    try:
        return Book.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Book({})
    except (OSError, ValidationError) as error:
        expected = (
            "what an earlier run has written; without the file, devices are called "
            "as in their topics until they announce themselves again"
        )
        raise ConfigError(str(path), "-", expected) from error
