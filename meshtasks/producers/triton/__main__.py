"""``python -m meshtasks.producers triton``."""

from __future__ import annotations

import typer

from meshtasks.config.settings import load_settings
from meshtasks.producers.__main__ import main
from meshtasks.producers.collecting import DryRun, run_collector
from meshtasks.producers.configuration import secret_headers
from meshtasks.producers.triton.collector import CONFIG, TritonCollector


def triton(context: typer.Context, *, dry_run: DryRun = False) -> None:
    """Publish how much Triton Inference Server does, and how long it takes.

    Where it is (MESH_TRITON_URL unless given), and how often it is read, is in
    config/producers/triton.yaml. The metrics go to the exchange "metrics", under
    metrics.application.triton.<metric>.

    Exit codes: 0 all confirmed, 1 no queue for some, 75 some not confirmed (they
    wait on disk for the next start), 78 bad configuration.
    """
    settings = load_settings()
    config = settings.read(CONFIG)
    collector = TritonCollector(
        config,
        config.url or settings.env.triton_base_url,
        secret_headers(settings, CONFIG, config.auth, "auth"),
    )
    run_collector(context, collector, config.interval_seconds, dry_run=dry_run)


if __name__ == "__main__":
    main("triton")
