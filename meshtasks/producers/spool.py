"""The buffer of real sources: what the broker does not take waits on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from meshtasks.producers.buffer import Buffer, Pending
from meshtasks.producers.spoolfile import (
    OVERHEAD_BYTES,
    SpoolCorrupt,
    SpoolFault,
    SpoolFile,
    check_storable,
    set_aside,
)

logger = logging.getLogger(__name__)

#: A message that is not confirmed after so long is written, broker or not.
WRITE_AFTER_SECONDS = 1.0
_FAULT_LOG_INTERVAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much a spool holds, on disk and in memory, before it drops its oldest
    messages. The bytes are those of the bodies and 160 for each."""

    messages: int
    size_bytes: int
    memory_messages: int = 100_000
    memory_bytes: int = 64 * 1024 * 1024


class Spool(Buffer):
    """Keeps messages in memory while the broker confirms them, else in a file, which
    one process may have open at a time.

    The file is in use from the first publication that fails, or from the first
    message that is not confirmed within :data:`WRITE_AFTER_SECONDS`, until all that
    is in it is confirmed; and from every start until the broker first answers.
    Meanwhile :meth:`append` writes before it returns. So a killed process loses at
    most the last second of better times, and no disk is worn by messages that live
    for milliseconds.

    While the file cannot be written (the disk is full, say), messages wait in
    memory. A file that cannot be read is set aside, and a new one begun.

    Raises:
        ConfigError: another process has the file open, or it cannot be made.
    """

    overhead_bytes = OVERHEAD_BYTES

    def __init__(self, path: Path, limits: SpoolLimits) -> None:
        super().__init__(limits.messages, limits.size_bytes)
        self._path = path
        self._limits = limits
        #: What is in it is older than all in memory.
        self._file: SpoolFile | None = SpoolFile.open(path)
        self.restored_records = self._file.found_records
        if self._file.count:
            text = "%d messages of an earlier run wait in %s"
            logger.info(text, self._file.count, path)
        self._in_flight_is_written = False
        self._writing = True
        self._fault_logged_at = -_FAULT_LOG_INTERVAL_SECONDS

    @override
    def append(self, pending: Pending) -> Sequence[Pending]:
        check_storable(pending.message)
        dropped = super().append(pending)
        if self._writing or self._is_late or self._memory_is_full:
            self.keep()
        return dropped

    @override
    def take(self, count: int, size_bytes: int) -> Sequence[Pending]:
        if not self._in_flight and self._file is not None and self._file.count:
            try:
                self._in_flight = self._file.take(count, size_bytes)
            except SpoolFault as error:
                self._begin_anew(error)
            self._in_flight_is_written = bool(self._in_flight)
        return super().take(count, size_bytes)

    @override
    def resolve(self) -> None:
        super().resolve()
        left = 0
        if self._file is not None:
            left = self._file.count
            if self._in_flight_is_written:
                self._forget(self._file)
        self._in_flight_is_written = False
        self._writing = self._writing and left > 0

    @override
    def keep(self) -> None:
        self._writing = True
        if self._file is None:
            return
        in_flight = [] if self._in_flight_is_written else self._in_flight
        messages = [*in_flight, *(pending for _, pending in self._memory)]
        if not messages:
            return
        if not self._file.count and not self._in_flight_is_written:
            logger.info("messages wait in %s", self._path)
        try:
            self._file.append(messages, taken=len(in_flight))
        except SpoolFault as error:
            self._report(error, "messages wait in memory, and are lost with it")
            return
        self._in_flight_is_written = bool(self._in_flight)
        self._memory.clear()
        self._memory_bytes = 0

    @override
    def close(self) -> Sequence[Pending]:
        self.keep()
        in_flight = [] if self._in_flight_is_written else self._in_flight
        lost = (*in_flight, *(pending for _, pending in self._memory))
        if self._file is not None:
            left = self._file.count + len(self._in_flight) - len(in_flight)
            if left:
                text = "%d messages wait in %s for the next start"
                logger.warning(text, left, self._path)
            self._file.close()
        return lost

    @property
    @override
    def waiting(self) -> int:
        on_disk = 0 if self._file is None else self._file.count
        return on_disk + len(self._memory)

    @property
    @override
    def waiting_bytes(self) -> int:
        on_disk = 0 if self._file is None else self._file.size_bytes
        return on_disk + self._memory_bytes

    @override
    def has_room(self, size_bytes: int) -> bool:
        return super().has_room(size_bytes) and not self._memory_is_full

    @property
    def _is_late(self) -> bool:
        """Whether the oldest message in memory has waited for too long."""
        if self._in_flight and not self._in_flight_is_written:
            since = self._in_flight_since
        elif self._memory:
            since = self._memory[0][0]
        else:
            return False
        return time.monotonic() - since > WRITE_AFTER_SECONDS

    @property
    def _memory_is_full(self) -> bool:
        return (
            len(self._memory) >= self._limits.memory_messages
            or self._memory_bytes >= self._limits.memory_bytes
        )

    @override
    def _drop_oldest(self) -> Pending | None:
        # Memory is full only while nothing can be removed from the file either.
        if self._file is not None and not self._memory_is_full:
            try:
                if (dropped := self._file.drop_first()) is not None:
                    return dropped
            except SpoolCorrupt as error:
                self._begin_anew(error)
            except SpoolFault as error:
                self._report(error, "the newest messages are dropped instead")
        return super()._drop_oldest()

    def _forget(self, file: SpoolFile) -> None:
        try:
            file.forget_taken()
        except SpoolFault as error:
            self._report(error, "a restart would publish confirmed messages again")
        if not file.count:
            logger.info("the broker has all that was in %s", self._path)

    def _begin_anew(self, why: SpoolFault) -> None:
        """Replace a file that cannot be read."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._in_flight_is_written = False
        try:
            set_aside(self._path, why)
            self._file = SpoolFile(self._path)
        except SpoolFault as error:
            self._report(error, "from now on messages wait in memory only")

    def _report(self, error: SpoolFault, consequence: str) -> None:
        now = time.monotonic()
        if now - self._fault_logged_at >= _FAULT_LOG_INTERVAL_SECONDS:
            self._fault_logged_at = now
            logger.error("%s; %s", error, consequence)
