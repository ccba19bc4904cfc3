"""``python -m meshtasks.producers system``."""

from __future__ import annotations

import typer

from meshtasks.config.settings import load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import DryRun, run_collector
from meshtasks.producers.system.collector import CONFIG, SystemCollector


def system(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish metrics of this machine: processors, memory, disks, network, …

    What is measured, and how often, is in config/producers/system.yaml. The metrics
    go to the exchange "metrics", under metrics.system.<host>.<group>.

    Exit codes: 0 all confirmed, 1 no queue for some, 75 some not confirmed (they
    wait on disk for the next start), 78 bad configuration.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    collector = SystemCollector(config, root=settings.env.host_root)
    run_collector(context, collector, config.interval_seconds, dry_run=dry_run)


if __name__ == "__main__":
    main("system")
