"""Statistics of Triton Inference Server as metrics.

Triton counts requests and nanoseconds per model since its start (statistics extension:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md).
They become rates, and means per request since the last round. This module does not
handle results of inferences: the worker that sent the request publishes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import typer
from pydantic import BaseModel, FilePath, ValidationError

from meshtasks.config.environment import auth_headers
from meshtasks.config.loader import ConfigModel
from meshtasks.config.settings import ConfigFile, load_settings
from meshtasks.config.urls import Auth, HttpUrl
from meshtasks.errors import SchemaMismatch
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import (
    LONGEST_GAP_INTERVALS,
    SCRAPE,
    Counters,
    DryRun,
    Fields,
    Guard,
    Measured,
    elapsed_seconds,
    metric,
    run_collector,
)
from meshtasks.producers.configuration import (
    Seconds,
    Selection,
    Word,
)
from meshtasks.producers.http import Client
from meshtasks.records.models import explain
from meshtasks.text import clip


class TritonConfig(ConfigModel):
    """The server to read, and the models to publish.

    Attributes:
        interval_seconds: between two rounds.
        timeout_seconds: for a response.
        url: of the server; by default ``MESH_TRITON_URL``.
        service: third word of the routing keys, and a tag.
        models: models by name.
        ca_file: PEM certificates that verify the server; by default the system's.
    """

    interval_seconds: Seconds = 15.0
    timeout_seconds: Seconds = 5.0
    url: HttpUrl | None = None
    service: Word = "triton"
    models: Selection = Selection()
    auth: Auth | None = None
    ca_file: FilePath | None = None


CONFIG = ConfigFile("producers/triton.yaml", TritonConfig)
_MODEL = "triton_model"
_PAGE_LIMIT_BYTES = 16 * 1024 * 1024
_NS_PER_MS = 1e6


class _Duration(BaseModel):
    """Number of operations, and their total time in nanoseconds."""

    count: int = 0
    ns: int = 0


class _InferenceStatistics(BaseModel):
    """Requests by result, and the steps of the successful ones."""

    success: _Duration
    fail: _Duration
    queue: _Duration
    compute_input: _Duration
    compute_infer: _Duration
    compute_output: _Duration


class _ModelStatistics(BaseModel):
    """Statistics of a model since it was loaded.

    Attributes:
        inference_count: rows computed.
        execution_count: batches in which they were computed.
    """

    name: str
    version: str
    inference_count: int
    execution_count: int
    inference_stats: _InferenceStatistics

    def counters(self) -> dict[str, float]:
        """Return counters by name; those ending in ``_ns`` are nanoseconds."""
        found: dict[str, float] = {
            "inferences": self.inference_count,
            "executions": self.execution_count,
            "requests": self.inference_stats.success.count,
            "failures": self.inference_stats.fail.count,
        }
        for step, field in _STEPS.items():
            duration: _Duration = getattr(self.inference_stats, step)
            found[f"{field}_count"] = duration.count
            found[f"{field}_ns"] = duration.ns
        return found


class _Statistics(BaseModel):
    """The response.

    Its members are validated one by one, so that an invalid one does not affect the
    others.
    """

    model_stats: list[Any]


def _name_of(model: object) -> object:
    return model.get("name") if isinstance(model, dict) else None


#: Step of a request → prefix of its fields.
_STEPS = {
    "success": "request",
    "queue": "queue",
    "compute_input": "compute_input",
    "compute_infer": "compute_infer",
    "compute_output": "compute_output",
}
_TOTALS = ("requests", "failures", "inferences", "executions")


class TritonCollector:
    """Reads the statistics of one server.

    Args:
        url: base URL of the server.
        headers: sent with each request; they contain the secret.
        elapsed: clock of rates.
    """

    def __init__(
        self,
        config: TritonConfig,
        url: str,
        headers: Mapping[str, str],
        *,
        elapsed: Callable[[], float] = elapsed_seconds,
    ) -> None:
        self._config = config
        self._url = f"{url.rstrip('/')}/v2/models/stats"
        self._elapsed = elapsed
        self._tags = {"service": config.service, "instance": urlsplit(url).netloc}
        self._counters = Counters(LONGEST_GAP_INTERVALS * config.interval_seconds)
        self._name = f"{config.service} {url}"
        self._guard = Guard()
        self._client = Client(
            config.timeout_seconds,
            _PAGE_LIMIT_BYTES,
            headers=headers,
            ca_file=config.ca_file,
        )

    def collect(self) -> Iterator[Measured]:
        """Yield a metric for each selected model, then the metric ``scrape``."""
        wall_seconds, began = time.time(), time.monotonic()
        statistics = self._guard.attempt(self._name, self._read)
        at_seconds = self._elapsed()
        models = [] if statistics is None else statistics.model_stats
        wanted = [each for each in models if self._wants(each)]
        read = 0
        for model in wanted:
            measured = self._guard.attempt(
                f"{self._name}, model {clip(str(_name_of(model)))}",
                partial(self._measure, model, at_seconds, wall_seconds),
            )
            if measured is not None:
                read += 1
                yield measured
        if statistics is not None:
            self._counters.forget_unread()
        how = {
            "up": statistics is not None and (read > 0 or not wanted),
            "duration_seconds": round(time.monotonic() - began, 6),
            "models": len(models),
        }
        yield self._measured(SCRAPE, how, {}, wall_seconds)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _wants(self, model: object) -> bool:
        name = _name_of(model)
        return not isinstance(name, str) or self._config.models.wants(name)

    def _read(self) -> _Statistics:
        page = self._client.get(self._url)
        try:
            return _Statistics.model_validate_json(page.body)
        except ValidationError as error:
            message = f"does not answer as Triton does: {explain(error)}"
            raise SchemaMismatch(message) from error

    def _measure(
        self, content: object, at_seconds: float, wall_seconds: float
    ) -> Measured:
        """Return the metrics of one model."""
        try:
            model = _ModelStatistics.model_validate(content)
        except ValidationError as error:
            message = f"has no statistics: {explain(error)}"
            raise SchemaMismatch(message) from error
        counters = model.counters()
        fields: dict[str, float | bool | None] = {
            name: counters[name] for name in _TOTALS
        }
        source = model.name, model.version
        increase = self._counters.read(source, counters, at_seconds)
        if increase is not None:
            by = increase.by
            for name in _TOTALS:
                fields[f"{name}_per_second"] = increase.per_second(name)
            if by["executions"]:
                fields["rows_per_execution"] = by["inferences"] / by["executions"]
            for field in _STEPS.values():
                if count := by[f"{field}_count"]:
                    fields[f"{field}_ms"] = by[f"{field}_ns"] / count / _NS_PER_MS
        tags = {"model": model.name, "version": model.version}
        return self._measured(_MODEL, fields, tags, wall_seconds)

    def _measured(
        self,
        name: str,
        fields: Fields,
        tags: Mapping[str, str],
        timestamp: float,
    ) -> Measured:
        routing_key = f"metrics.application.{self._config.service}.{name}"
        record = metric(name, fields, {**self._tags, **tags}, timestamp)
        return Measured(routing_key, record)


def triton(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of Triton Inference Server.

    Address (default: MESH_TRITON_URL) and interval are in config/producers/triton.yaml.
    Metrics go to the exchange metrics, with the routing keys
    metrics.application.triton.<metric>.

    Exit codes: 0 all confirmed; 1 no queue for some messages; 75 some not confirmed,
    they are on disk; 78 bad configuration.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    collector = TritonCollector(
        config,
        config.url or settings.env.triton_base_url,
        auth_headers(config.auth, settings.env, settings.path(CONFIG), "auth"),
    )
    run_collector(context, collector.collect, config.interval_seconds, dry_run=dry_run)


if __name__ == "__main__":
    main("triton")
