"""What docs/add-a-queue.md says can be done as it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from meshtasks.demo.victoriametrics import VictoriaMetrics
from meshtasks.flows.contract import HANDLERS
from meshtasks.outcome import DONE, Dead
from meshtasks.records import units
from tests.support.handling import handle, message, opened, settings_of
from tests.support.meshes import declared
from tests.support.victoria import export

_PAGE = Path(__file__).parents[2] / "docs" / "add-a-queue.md"
_QUEUE = "sensors.pressure"
_KEY = "sensors.pressure.attic"


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The quantity and the handler of the page, in their modules."""
    page = _PAGE.read_text(encoding="utf-8")
    quantity, handler = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = dict(vars(units))
    exec(compile(quantity, "quantity", "exec"), names)
    monkeypatch.setattr(units, "PRESSURE", names["PRESSURE"], raising=False)
    module = ModuleType("meshtasks.flows.pressure")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(handler, "handler", "exec"), vars(module))
    yield
    del HANDLERS[_QUEUE]


@pytest.mark.usefixtures("added")
def test_the_handler_stores_what_it_takes_and_refuses_the_rest(
    mesh_env: dict[str, str], victoria: VictoriaMetrics
) -> None:
    good = message(_QUEUE, _KEY, {"value": 101_320, "unit": "Pa"})
    bad = message(_QUEUE, _KEY, {"value": -5})

    with opened(settings_of(declared(mesh_env))) as sinks:
        done, dead = handle(sinks, good, bad)

    assert done is DONE
    assert isinstance(dead, Dead)
    assert "not below zero" in dead.reason
    (series,) = export(victoria, "pressure_hectopascal")
    assert list(series.samples.values()) == [1013.2]
