"""config/producers/*.yaml, as they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from pydantic import BaseModel

from meshtasks.config.environment import Environment
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError
from meshtasks.producers.configuration import Selection
from meshtasks.producers.prometheus.config import PrometheusConfig
from meshtasks.producers.system import Group, SystemConfig
from meshtasks.producers.triton import TritonConfig

SHIPPED = Path(__file__).parents[2] / "config"


Config = TypeVar("Config", bound=BaseModel)


def producer_config(settings: Settings, name: str, model: type[Config]) -> Config:
    return settings.read(ConfigFile(f"producers/{name}.yaml", model))


@pytest.fixture
def shipped() -> Settings:
    return Settings(Environment(config_dir=SHIPPED))


def test_the_shipped_file_of_the_system_collector_is_valid(shipped: Settings) -> None:
    config = producer_config(shipped, "system", SystemConfig)

    assert config.groups == set(Group)
    assert config.net.wants("eth0")
    assert not config.net.wants("veth12ab")
    assert config.diskio.wants("nvme0n1")
    assert not config.diskio.wants("nvme0n1p2")


def test_the_shipped_files_of_services_are_valid(shipped: Settings) -> None:
    prometheus = producer_config(shipped, "prometheus", PrometheusConfig)
    triton = producer_config(shipped, "triton", TritonConfig)

    assert [each.instance for each in prometheus.targets] == ["127.0.0.1:15692"]
    assert not prometheus.metrics.wants("go_threads")
    assert triton.url is None


def targets(*targets: dict[str, Any]) -> dict[str, Any]:
    return {"targets": [{"service": "shop", **target} for target in targets]}


HERE = {"url": "http://127.0.0.1/metrics"}


@pytest.mark.parametrize(
    ("name", "model", "config", "key", "words"),
    [
        ("system", SystemConfig, {"interval_seconds": 0}, "interval_seconds", "than 0"),
        ("system", SystemConfig, {"groups": ["gpu"]}, "groups.0", "'cpu', 'mem'"),
        ("system", SystemConfig, {"groups": []}, "groups", "at least 1 item"),
        ("system", SystemConfig, {"host": "my.nas"}, "host", "match pattern"),
        ("system", SystemConfig, {"net": {"only": []}}, "net.only", "no such key"),
        ("prometheus", PrometheusConfig, {}, "-", "expected targets, or kubernetes"),
        (
            "prometheus",
            PrometheusConfig,
            targets({"url": "ftp://127.0.0.1"}),
            "targets.0.url",
            "expected an http or https URL",
        ),
        (
            "prometheus",
            PrometheusConfig,
            targets({"url": "http://me:pass@127.0.0.1/"}),
            "targets.0.url",
            "a secret belongs in auth",
        ),
        ("prometheus", PrometheusConfig, targets({}), "targets.0.url", "required"),
        (
            "prometheus",
            PrometheusConfig,
            targets(HERE, HERE),
            "-",
            "shop 127.0.0.1 twice",
        ),
        (
            "prometheus",
            PrometheusConfig,
            targets({**HERE, "ca_file": "/nowhere/ca.pem"}),
            "targets.0.ca_file",
            "not point to a file",
        ),
        (
            "prometheus",
            PrometheusConfig,
            {**targets(HERE), "timeout_seconds": 60},
            "-",
            "at most interval_seconds",
        ),
        (
            "prometheus",
            PrometheusConfig,
            {**targets(HERE), "quantiles": [99]},
            "quantiles.0",
            "less than 1",
        ),
        ("triton", TritonConfig, {"url": "127.0.0.1:8000"}, "url", "http or https"),
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
            Settings(Environment(config_dir=tmp_path)), "weather", SystemConfig
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
