"""``python -m producers.sensornet``."""

from __future__ import annotations

from producers.__main__ import main

main("sensornet")
