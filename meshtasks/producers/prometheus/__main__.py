"""``python -m meshtasks.producers prometheus``: metrics of services, by scraping."""

from __future__ import annotations

import typer

from meshtasks.config.environment import auth_headers
from meshtasks.config.extras import require
from meshtasks.config.settings import Settings, load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import DryRun, run_collector
from meshtasks.producers.prometheus.config import CONFIG, KubernetesConfig
from meshtasks.producers.prometheus.scraping import (
    Discovery,
    PrometheusCollector,
    Target,
)


def prometheus(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of services that have a page for Prometheus or OpenMetrics.

    Services and interval are in config/producers/prometheus.yaml; Kubernetes pods can
    be discovered by their annotations. Metrics go to the exchange metrics, with the
    routing keys metrics.application.<service>.<metric>.

    Exit codes: 0 all confirmed; 1 no queue for some messages; 75 some not confirmed,
    they are on disk; 78 bad configuration.
    """
    settings = load_settings()
    config, path = settings.read(CONFIG), settings.path(CONFIG)
    targets = [
        Target(
            target,
            config,
            auth_headers(target.auth, settings.env, path, f"targets.{index}.auth"),
        )
        for index, target in enumerate(config.targets)
    ]
    discovery = _discovery(settings, config.kubernetes)
    collector = PrometheusCollector(config, targets, discovery)
    run_collector(context, collector.collect, config.interval_seconds, dry_run=dry_run)


def _discovery(
    settings: Settings, wanted: KubernetesConfig | None
) -> tuple[Discovery, float] | None:
    if wanted is None:
        return None
    require("kubernetes", "looking for pods (`kubernetes` of prometheus.yaml)")
    from meshtasks.producers.prometheus.pods import PodDiscovery  # noqa: PLC0415

    return PodDiscovery(wanted, settings.path(CONFIG)).targets, wanted.refresh_seconds


if __name__ == "__main__":
    main("prometheus")
