"""``python -m producers prometheus``."""

from __future__ import annotations

import typer

from meshtasks.config.environment import auth_headers
from meshtasks.config.loader import fault_in
from meshtasks.config.settings import Settings, load_settings
from producers.__main__ import main
from producers.collecting import DryRun, run_collector
from producers.configuration import producer_config, producer_file
from producers.prometheus.collector import Discovery, PrometheusCollector, Target
from producers.prometheus.config import KubernetesConfig, PrometheusConfig

NAME = "prometheus"


def prometheus(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of services that show them to Prometheus or as OpenMetrics.

    Which ones, and how often, is in config/producers/prometheus.yaml; pods of
    Kubernetes can be found by their annotations. The metrics go to the exchange
    "metrics", under metrics.application.<service>.<metric>.

    Exit codes: 0 all confirmed, 1 no queue for some, 75 some not confirmed (they
    wait on disk for the next start), 78 bad configuration.
    """
    settings = load_settings()
    config = producer_config(settings, NAME, PrometheusConfig)
    collector = PrometheusCollector(
        config, _targets(settings, config), _discovery(settings, config.kubernetes)
    )
    run_collector(context, collector, config.interval_seconds, dry_run=dry_run)


def _targets(settings: Settings, config: PrometheusConfig) -> list[Target]:
    path = producer_file(settings, NAME)
    targets = []
    for place, target in enumerate(config.targets):
        headers = {}
        if target.auth is not None:
            key = f"targets.{place}.auth"
            headers = auth_headers(target.auth, settings.env, path, key)
        targets.append(Target(target, config, headers))
    return targets


def _discovery(
    settings: Settings, wanted: KubernetesConfig | None
) -> tuple[Discovery, float] | None:
    if wanted is None:
        return None
    path = producer_file(settings, NAME)
    try:
        # Here, since only those who ask for it need its libraries.
        from producers.prometheus.kubernetes import PodDiscovery  # noqa: PLC0415
    except ModuleNotFoundError as error:
        expected = (
            "needs the client of Kubernetes: pip install 'meshtasks[kubernetes]' "
            f"({error})"
        )
        raise fault_in(path, "kubernetes", expected) from error
    return PodDiscovery(wanted, path), wanted.refresh_seconds


if __name__ == "__main__":
    main("prometheus")
