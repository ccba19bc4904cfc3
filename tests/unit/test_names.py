"""Names that a reader can rely on: one class of a name in a layer."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.conftest import ROOT


def test_no_class_name_stands_twice_in_a_layer() -> None:
    places: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in sorted((ROOT / "meshtasks").rglob("*.py")):
        layer = path.relative_to(ROOT / "meshtasks").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[layer, node.name].append(path.relative_to(ROOT))

    assert not {name: found for name, found in places.items() if len(found) > 1}
