"""A source that notes what it has submitted, for whoever kills it.

``python -m benchmarks.submitting PER_SECOND FILE``: a reading at a time, and the
millisecond of each, a line in the file, as soon as it is submitted.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from itertools import count
from pathlib import Path

from benchmarks.load import SENSORS, reading
from meshtasks.producers.session import Patience, run_session, spooling_producer

_DRAIN_SECONDS = 120.0


def main(per_second: float, path: Path) -> int:
    """Submit until SIGTERM; the process's exit code."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    producer = spooling_producer("benchmark")

    def feed() -> None:
        began_at, last_ms = time.monotonic(), 0
        with path.open("a", buffering=1, encoding="ascii") as notes:
            for number in count():
                due_seconds = began_at + number / per_second - time.monotonic()
                if stop.wait(max(0.0, due_seconds)):
                    return
                last_ms = max(last_ms + 1, int(time.time() * 1000))
                record = reading(number % SENSORS, last_ms, 0.0)
                key = f"sensors.temperature.{record['sensor_id']}"
                producer.submit("sensors", key, record)
                notes.write(f"{last_ms}\n")

    return run_session(producer, feed, stop, Patience(drain_seconds=_DRAIN_SECONDS))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), Path(sys.argv[2])))
