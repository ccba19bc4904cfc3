"""config/alerts.yaml and the receivers' URLs, as they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import ConfigError
from meshtasks.flows.alerts.config import ALERTS
from tests.support.alerting import CONFIG

SHIPPED = Path(__file__).parents[2] / "config"


@pytest.fixture
def settings_of(tmp_path: Path) -> Any:
    def settings_of(**config: Any) -> Settings:
        text = yaml.safe_dump({**CONFIG, **config})
        (tmp_path / "alerts.yaml").write_text(text)
        return Settings(Environment(config_dir=tmp_path))

    return settings_of


def test_what_ships_is_valid_and_puts_the_critical_alerts_first() -> None:
    policy = Settings(Environment(config_dir=SHIPPED)).read(ALERTS)

    assert policy.routes[0].group_wait == 0
    assert policy.groups_of("f", {"severity": "critical"})[0].route == "critical"
    assert policy.groups_of("f", {"severity": "warning"})[0].route == "others"


@pytest.mark.parametrize(
    ("config", "key", "words"),
    [
        ({"routes": [{"name": "all", "match": ["x"]}]}, "routes.0.match.0", "matcher"),
        ({"routes": []}, "routes", "at least 1 item"),
        ({"templates": {"title": "{{ nobody }}"}}, "templates.title", "undefined"),
        ({"quiet_hours": {"from": 1320, "to": "07:00"}}, "quiet_hours.from", "quotes"),
    ],
)
def test_a_bad_file_is_refused_with_file_key_and_reason(
    settings_of: Any, tmp_path: Path, config: dict[str, Any], key: str, words: str
) -> None:
    settings = settings_of(**config)

    with pytest.raises(ConfigError, match=words) as caught:
        _ = settings.read(ALERTS)
    assert caught.value.source == str(tmp_path / "alerts.yaml")
    assert caught.value.key == key


class TestReceivers:
    @pytest.fixture(autouse=True)
    def shipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESH_CONFIG_DIR", str(SHIPPED))

    def test_urls_come_from_variables_and_files(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "url").write_text("mailto://hidden\n")
        monkeypatch.setenv("MESH_RECEIVERS__PHONE", "ntfy://hidden")
        monkeypatch.setenv("MESH_RECEIVERS__MAIL_FILE", str(tmp_path / "url"))
        settings = load_settings()

        assert settings.env.receivers == {
            "phone": SecretStr("ntfy://hidden"),
            "mail": SecretStr("mailto://hidden"),
        }
        assert "hidden" not in repr(settings.env)

    def test_an_empty_variable_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MESH_RECEIVERS__PHONE", "")

        assert load_settings().env.receivers == {}

    def test_a_file_that_is_not_there_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MESH_RECEIVERS__PHONE_FILE", "/nonexistent")

        with pytest.raises(ConfigError, match="MESH_RECEIVERS__PHONE_FILE: a readable"):
            load_settings()

    def test_a_receiver_that_is_not_declared_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MESH_RECEIVERS__FONE", "ntfy://hidden")

        with pytest.raises(ConfigError, match="MESH_RECEIVERS__FONE: a receiver") as e:
            _ = load_settings().read(ALERTS)
        assert "hidden" not in str(e.value)
