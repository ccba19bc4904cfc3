"""config/producers/*.yaml, as they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtasks.domain.errors import ConfigError
from meshtasks.settings import Environment, Settings
from producers.configuration import Selection, producer_config
from producers.system.config import Group, SystemConfig

SHIPPED = Path(__file__).parents[2] / "config"


def test_what_ships_is_valid() -> None:
    settings = Settings(Environment(config_dir=SHIPPED))

    config = producer_config(settings, "system", SystemConfig)

    assert config.groups == set(Group)
    assert config.net.wants("eth0")
    assert not config.net.wants("veth12ab")
    assert config.diskio.wants("nvme0n1")
    assert not config.diskio.wants("nvme0n1p2")


@pytest.mark.parametrize(
    ("name", "model", "config", "key", "words"),
    [
        ("system", SystemConfig, {"interval_seconds": 0}, "interval_seconds", "than 0"),
        ("system", SystemConfig, {"groups": ["gpu"]}, "groups.0", "'cpu', 'mem'"),
        ("system", SystemConfig, {"groups": []}, "groups", "at least 1 item"),
        ("system", SystemConfig, {"host": "my.nas"}, "host", "match pattern"),
        ("system", SystemConfig, {"net": {"only": []}}, "net.only", "not permitted"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_and_expectation(
    tmp_path: Path, name: str, model: Any, config: Any, key: str, words: str
) -> None:
    file = tmp_path / "producers" / f"{name}.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(config))

    with pytest.raises(ConfigError, match=words) as caught:
        producer_config(Settings(Environment(config_dir=tmp_path)), name, model)
    assert caught.value.source == str(file)
    assert caught.value.key == key


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MESH_CONFIG_DIR"):
        producer_config(
            Settings(Environment(config_dir=tmp_path)), "system", SystemConfig
        )


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("go_gc_duration", False), ("http_requests", True), ("go_threads", True)],
)
def test_a_name_is_wanted_if_it_is_included_and_not_excluded(
    name: str, wanted: bool
) -> None:
    selection = Selection(include=("http_*", "go_*"), exclude=("go_gc*",))

    assert selection.wants(name) is wanted
