"""``python -m producers``, before a source is run."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from producers.__main__ import SUMMARIES


@pytest.mark.parametrize("name", SUMMARIES)
def test_help_lists_a_source_by_the_first_sentence_of_its_command(name: str) -> None:
    command = getattr(import_module(f"producers.{name}.__main__"), name)

    assert SUMMARIES[name] == command.__doc__.partition("\n")[0]


def test_help_imports_no_source() -> None:
    script = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from producers.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, sep='\\n')\n"
    )

    shown = subprocess.check_output([sys.executable, "-c", script], text=True)

    assert "sensornet" in shown
    heavy = {"amqp", "kombu", "pydantic", "psutil", "prometheus_client", "websockets"}
    assert heavy.isdisjoint(shown.splitlines())
