"""``python -m meshtasks.producers``, before a source is run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshtasks.producers.__main__ import SUMMARIES, command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SUMMARIES)
def test_help_lists_a_source_by_the_first_sentence_of_its_command(name: str) -> None:
    summary = (command(name).__doc__ or "").partition("\n")[0]

    assert summary == SUMMARIES[name]


@pytest.mark.parametrize("words", [["producers", "system"], ["producers.system"]])
def test_a_clone_has_the_short_name(words: list[str]) -> None:
    program = [sys.executable, "-m", *words, "--help"]

    shown = subprocess.check_output(program, cwd=ROOT, text=True)

    assert "config/producers/system.yaml" in shown


def test_help_imports_no_source() -> None:
    script = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from meshtasks.producers.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, sep='\\n')\n"
    )

    shown = subprocess.check_output([sys.executable, "-c", script], text=True)

    assert "sensornet" in shown
    heavy = {"amqp", "kombu", "pydantic", "psutil", "prometheus_client", "websockets"}
    assert heavy.isdisjoint(shown.splitlines())


def test_help_has_the_width_of_the_terminal_and_no_types_of_flags() -> None:
    program = [sys.executable, "-m", "meshtasks.producers", "system", "--help"]
    environment = {**os.environ, "COLUMNS": "200"}

    shown = subprocess.check_output(program, env=environment, text=True)

    assert "yaml. Metrics go to the exchange metrics, with the routing keys" in shown
    assert "<bool>" not in shown
