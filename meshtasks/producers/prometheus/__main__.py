"""``python -m meshtasks.producers prometheus``."""

from __future__ import annotations

import typer

from meshtasks.config.extras import require
from meshtasks.config.settings import Settings, load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import DryRun, run_collector
from meshtasks.producers.configuration import secret_headers
from meshtasks.producers.prometheus.collector import (
    CONFIG,
    Discovery,
    KubernetesConfig,
    PrometheusCollector,
    Target,
)


def prometheus(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of services that show them to Prometheus or as OpenMetrics.

    Which ones, and how often, is in config/producers/prometheus.yaml; pods of
    Kubernetes can be found by their annotations. The metrics go to the exchange
    "metrics", under metrics.application.<service>.<metric>.

    Exit codes: 0 all confirmed, 1 no queue for some, 75 some not confirmed (they
    wait on disk for the next start), 78 bad configuration.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    targets = [
        Target(
            target,
            config,
            secret_headers(settings, CONFIG, target.auth, f"targets.{index}.auth"),
        )
        for index, target in enumerate(config.targets)
    ]
    discovery = _discovery(settings, config.kubernetes)
    collector = PrometheusCollector(config, targets, discovery)
    run_collector(context, collector, config.interval_seconds, dry_run=dry_run)


def _discovery(
    settings: Settings, wanted: KubernetesConfig | None
) -> tuple[Discovery, float] | None:
    if wanted is None:
        return None
    require("kubernetes", "looking for pods (`kubernetes` of prometheus.yaml)")
    from meshtasks.producers.prometheus.kubernetes import PodDiscovery  # noqa: PLC0415

    return PodDiscovery(wanted, settings.path(CONFIG)), wanted.refresh_seconds


if __name__ == "__main__":
    main("prometheus")
