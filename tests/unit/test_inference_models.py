"""config/models.yaml: what it may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.errors import ConfigError
from meshtasks.flows.inference.config import MODELS, ModelBook, Score
from meshtasks.flows.loading import load_flows

ROOT = Path(__file__).parents[2]

ALERT = {
    "name": "odd",
    "field": "score",
    "above": 0.8,
    "severity": "warning",
    "title": "{tags[sensor_id]} is odd",
    "message": "score {value:.2f}",
}


def book(**steps: Any) -> ModelBook:
    return ModelBook.model_validate({"models": {"anomaly": steps}})


def refusal(**steps: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        book(**steps)
    return str(caught.value)


def test_the_shipped_file_describes_the_shipped_models() -> None:
    settings = Settings(Environment(config_dir=ROOT / "config"))
    shipped = {each.name for each in (ROOT / "config" / "triton").iterdir()}

    assert set(settings.read(MODELS).models) == shipped


def test_the_example_in_the_shipped_file_is_right() -> None:
    text = (ROOT / "config" / "models.yaml").read_text(encoding="utf-8")
    _, _, example = text.partition("Example of a classifier:\n")
    lines = [line.replace("  # ", "  ", 1) for line in example.splitlines()]

    ModelBook.model_validate(yaml.safe_load("\n".join(["models:", *lines[1:]])))


def test_an_alert_watches_the_results_of_its_model_only() -> None:
    rules = book(scores=[{"output": "score"}], alerts=[ALERT]).rules

    def watching(model: str) -> int:
        return len(
            rules.matching_metric("ai.result.x", "inference", (("model", model),))
        )

    assert (watching("anomaly"), watching("other")) == (1, 0)


def test_an_alert_need_not_say_what_all_alerts_of_models_are() -> None:
    for key, value in {"type": "threshold", "metric": "x", "routing_key": "#"}.items():
        text = refusal(scores=[{"output": "score"}], alerts=[{**ALERT, key: value}])
        assert f"{key} has no place here" in text


def test_an_alert_on_a_field_that_no_result_has_is_refused() -> None:
    text = refusal(scores=[{"output": "y"}], alerts=[ALERT])

    assert "watches the field score; expected one of y, ok, latency_ms" in text


def test_alerts_may_watch_the_latency() -> None:
    assert book(alerts=[{**ALERT, "field": "latency_ms"}])


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        ({"field": "a", "labels": ["b"]}, "expected field or labels, not both"),
        ({"top_k": 1}, "top_k is 1, but there are 0 labels"),
        ({"labels": ["a", "b"], "top_k": 3}, "top_k is 3, but there are 2 labels"),
        ({"labels": ["a", "a"]}, "twice: a"),
        ({"field": "ok"}, "twice: ok"),
        ({"field": "latency_ms"}, "twice: latency_ms"),
        ({"field": "_time"}, "string should match"),
        ({"labels": [r"a\b"]}, "string should match"),
    ],
)
def test_fields_that_cannot_be_are_refused(score: dict[str, Any], reason: str) -> None:
    assert reason.lower() in refusal(scores=[{"output": "y", **score}]).lower()


def test_two_alerts_of_the_same_name_are_refused() -> None:
    text = refusal(scores=[{"output": "score"}], alerts=[ALERT, ALERT])

    assert "rule names must be unique; twice: odd" in text


def test_of_equal_scores_the_first_labels_count() -> None:
    score = Score(output="y", labels=("a", "b", "c"), top_k=2)
    output: Any = {"name": "y", "shape": [1, 3], "data": [0.2, 0.4, 0.4]}

    assert list(score.rows(output)) == [{"b": 0.4, "c": 0.4}]


def test_an_output_without_a_batch_is_one_row() -> None:
    score = Score(output="y", labels=("a", "b", "c"))
    output: Any = {"name": "y", "shape": [3], "data": [1, 2, 3]}

    assert list(score.rows(output)) == [{"a": 1, "b": 2, "c": 3}]


@pytest.mark.parametrize(
    "url", ["", "amqp://localhost", "http://", "host:8000?x=1", "user@host:8000"]
)
def test_a_url_of_triton_that_is_none_is_refused_at_the_start(url: str) -> None:
    environment = Environment(config_dir=ROOT / "config", triton_url=url)

    with pytest.raises(ConfigError, match="MESH_TRITON_URL"):
        Settings(environment).validate(load_flows().files)
