"""The AI pipeline, with a real store and a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from meshtasks.config.settings import load_settings
from meshtasks.demo.servers import VictoriaMetrics
from meshtasks.flows.inference.handler import evaluate_results
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, Retry
from tests.support.amqp import drain
from tests.support.archive import lines_sent
from tests.support.inference import NOW, RESULTS, batch_of
from tests.support.meshes import reconfigured
from tests.support.victoria import count_samples, export

MODELS = {
    "models": {
        "anomaly": {
            "tags": ["sensor_id"],
            "scores": [{"output": "score"}],
            "alerts": [
                {
                    "name": "odd",
                    "field": "score",
                    "above": 0.8,
                    "hysteresis": 0.2,
                    "severity": "warning",
                    "title": "{tags[sensor_id]} is odd",
                    "message": "score {value:.2f}",
                }
            ],
        },
        "scene": {
            "tags": ["camera"],
            "scores": [
                {
                    "output": "probabilities",
                    "labels": ["empty", "person", "cat"],
                    "top_k": 2,
                }
            ],
            "alerts": [
                {
                    "name": "visitor",
                    "field": "person",
                    "above": 0.9,
                    "severity": "info",
                    "title": "Somebody is there",
                    "message": "{tags[camera]} sees a person",
                }
            ],
        },
    }
}

Evaluate = Callable[..., list[Outcome]]


@pytest.fixture
def evaluate(
    mesh_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Evaluate]:
    """Runs the handler on results to one model."""
    with ExitStack() as opened:
        env = reconfigured(mesh_env, tmp_path / "config", models=MODELS)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        sinks = Sinks(load_settings())
        opened.callback(sinks.close)

        def evaluate(*bodies: Any) -> list[Outcome]:
            key = "ai.result.anomaly"
            return evaluate_results(
                batch_of(*bodies, routing_key=key, queue=RESULTS), sinks
            )

        yield evaluate


def result(
    second: float = 0, score: float = 0.5, rows: int = 1, **changes: Any
) -> dict[str, Any]:
    shape, data = [rows, 1], [score] * rows
    output = {"name": "score", "shape": shape, "datatype": "FP32", "data": data}
    return {
        "request_id": f"r{second}",
        "model": "anomaly",
        "version": "1",
        "outputs": [output],
        "latency_ms": 2.5,
        "timestamp": NOW + second,
        "sensor_id": "attic",
        **changes,
    }


def scene(*probabilities: float) -> dict[str, Any]:
    output = {
        "name": "probabilities",
        "shape": [1, len(probabilities)],
        "datatype": "FP32",
        "data": probabilities,
    }
    return result(model="scene", outputs=[output], camera="porch")


def stored(victoria: VictoriaMetrics) -> dict[str, tuple[dict[str, str], list[float]]]:
    """Labels and values of each series, by its name."""
    return {
        series.name: (series.labels, list(series.samples.values()))
        for series in export(victoria)
    }


def alerts(url: str) -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in drain(url, "alerts.notifications")]


def test_score_and_latency_of_a_result_are_stored(
    evaluate: Evaluate, victoria: VictoriaMetrics
) -> None:
    assert evaluate(result(0, 0.25), [result(1, 0.5), result(2, 0.75)]) == [DONE] * 3

    labels = {"model": "anomaly", "sensor_id": "attic"}
    assert stored(victoria) == {
        "inference_latency_ms": (labels, [2.5, 2.5, 2.5]),
        "inference_ok": (labels, [1.0, 1.0, 1.0]),
        "inference_score": (labels, [0.25, 0.5, 0.75]),
    }


def test_of_a_model_without_steps_the_latency_is_stored(
    evaluate: Evaluate, victoria: VictoriaMetrics
) -> None:
    assert evaluate(result(model="other", outputs=[])) == [DONE]

    assert stored(victoria) == {
        "inference_latency_ms": ({"model": "other"}, [2.5]),
        "inference_ok": ({"model": "other"}, [1.0]),
    }


def test_of_an_error_it_is_stored_that_there_was_one(
    evaluate: Evaluate, victoria: VictoriaMetrics
) -> None:
    error = result(error="no such model")
    del error["outputs"], error["latency_ms"]

    assert evaluate(error) == [DONE]
    assert stored(victoria) == {
        "inference_ok": ({"model": "anomaly", "sensor_id": "attic"}, [0.0])
    }


def test_the_largest_scores_are_stored_under_their_labels(
    evaluate: Evaluate, victoria: VictoriaMetrics
) -> None:
    evaluate(scene(0.125, 0.625, 0.25))

    series = stored(victoria)
    assert series["inference_person"] == (
        {"camera": "porch", "model": "scene"},
        [0.625],
    )
    assert series["inference_cat"][1] == [0.25]
    assert "inference_empty" not in series


def test_the_rows_of_a_batch_are_series_of_their_own(
    evaluate: Evaluate, victoria: VictoriaMetrics, mesh_url: str
) -> None:
    assert evaluate(result(rows=3)) == [DONE]

    assert count_samples(victoria, "inference_score") == 3
    (archived,) = drain(mesh_url, "archive.events")
    assert len(lines_sent(archived.body)) == 1


def test_a_score_above_its_threshold_is_an_alert_until_it_is_below(
    evaluate: Evaluate, mesh_url: str
) -> None:
    evaluate(result(0, 0.9), result(1, 0.7))
    evaluate(result(2, 0.5))

    firing, over = alerts(mesh_url)
    assert (firing["title"], firing["message"]) == ("attic is odd", "score 0.90")
    assert (firing["severity"], firing["source"]) == ("warning", "rules.odd")
    assert firing["labels"]["model"] == "anomaly"
    assert firing["labels"]["sensor_id"] == "attic"
    assert (firing["resolved"], over["resolved"]) == (False, True)
    assert over["message"] == "inference: inference score is back at 0.5."


def test_a_label_may_be_an_alert(evaluate: Evaluate, mesh_url: str) -> None:
    evaluate(scene(0.01, 0.95, 0.04))

    (alert,) = alerts(mesh_url)
    assert alert["message"] == "porch sees a person"


def test_a_rule_of_one_model_does_not_watch_another(
    evaluate: Evaluate, mesh_url: str
) -> None:
    evaluate(result(0, 0.99, model="other"))

    assert alerts(mesh_url) == []


def test_results_are_archived(evaluate: Evaluate, mesh_url: str) -> None:
    good, bad = result(0), result(1, outputs=[])
    evaluate(good, bad)

    (message,) = drain(mesh_url, "archive.events")
    (line,) = lines_sent(message.body)
    assert line["record"] == good
    assert line["routing_key"] == "ai.result.anomaly"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outputs": None}, "outputs: this field is missing, and there is no error"),
        ({"outputs": []}, "models.yaml names score; it is missing"),
        (
            {
                "outputs": [
                    {
                        "name": "score",
                        "shape": [1, 2],
                        "datatype": "FP32",
                        "data": [1, 2],
                    }
                ]
            },
            "output score: expected rows of 1 (models.yaml), got the shape [1, 2]",
        ),
        (
            {
                "outputs": [
                    {"name": "score", "shape": [1], "datatype": "BYTES", "data": ["no"]}
                ]
            },
            'output score: value 0: expected a number, got the text "no"',
        ),
        ({"sensor_id": {"nested": 1}}, "tags.sensor_id: expected text"),
        ({"timestamp": "2026-11-23T13:20:00"}, "has no time zone"),
    ],
)
def test_a_result_that_is_none_is_dead_alone(
    evaluate: Evaluate, victoria: VictoriaMetrics, changes: dict[str, Any], reason: str
) -> None:
    good, bad = evaluate(result(0), result(1, **changes))

    assert good is DONE
    assert isinstance(bad, Dead)
    assert reason in bad.reason
    assert count_samples(victoria, "inference_ok") == 1


def test_a_rerun_changes_nothing(
    evaluate: Evaluate, victoria: VictoriaMetrics, mesh_url: str
) -> None:
    for _ in range(2):
        evaluate(result(0, 0.9))

    assert count_samples(victoria, "inference_score") == 1
    assert len(alerts(mesh_url)) == 1
    one, other = drain(mesh_url, "archive.events")
    assert one.body == other.body


def test_while_the_store_is_unavailable_results_wait(
    evaluate: Evaluate, victoria: VictoriaMetrics
) -> None:
    victoria.kill()

    (outcome,) = evaluate(result())

    assert isinstance(outcome, Retry)
    assert outcome.sink == "timeseries"
