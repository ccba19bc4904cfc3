"""``meshtasks analytics``: compaction and content of the Parquet dataset."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from meshtasks.cli.terminal import fail, say, tell_place
from meshtasks.config.extras import require
from meshtasks.config.settings import load_settings
from meshtasks.flows.analytics.dataset import Dataset
from meshtasks.flows.analytics.layout import Split
from meshtasks.flows.analytics.rows import TABLES
from meshtasks.flows.archive.objects import open_store

_EXIT_DAMAGED = 1

app = typer.Typer()


@app.command()
def compact(
    day: Annotated[
        datetime | None,
        typer.Option(
            "--date",
            formats=["%Y-%m-%d"],
            help="Compact only the files of this UTC date.",
        ),
    ] = None,
) -> None:
    """Merge the small files of each day into one, and add missing rows.

    Workers write one file per archived batch; with one file per day, queries are many
    times as fast. Rows that the archive has and the dataset lacks are added: from
    before the dataset existed, or from workers without the extra "analytics".

    Run the command every day or every hour, by a timer. It can be interrupted, and
    queries and workers can run meanwhile.

    A file that cannot be read is listed and moved to damaged/, and its rows are made
    again from the archive. Days that have one file are checked only with --date.

    Exit codes: 0; 1 some files are damaged; 69 the archive cannot be reached, or
    another process is compacting; 78 bad configuration, or the extra is not installed.
    """
    require("analytics", "`meshtasks analytics`")
    from meshtasks.flows.analytics.compaction import Compaction  # noqa: PLC0415

    settings = load_settings()
    tell_place(settings.env, "archive_url")
    with closing(open_store(settings.env)) as store:
        compaction = Compaction(settings, store, report=say)
        done = compaction.run(day.date() if day else None)
    say(
        f"{done.before} files became {done.after}, {done.deleted} deleted, "
        f"{done.added} archive objects added"
    )
    if done.kept:
        say(
            f"{done.kept} replaced files are left for now: a query is reading. "
            "The next run deletes them."
        )
    if done.damaged:
        fail(f"{done.damaged} files or objects are damaged", _EXIT_DAMAGED)


@app.command()
def info() -> None:
    """Show the files of each table, and whether compaction is due.

    Exit codes: 0; 69 the archive cannot be reached; 78 bad configuration.
    """
    env = load_settings().env
    tell_place(env, "archive_url")
    with closing(open_store(env)) as store:
        dataset = Dataset(store)
        partitions = dataset.partitions(with_sources=True)
        missing = len(dataset.missing(partitions))
    tables: dict[str, list[Split]] = defaultdict(list)
    dates: dict[str, list[str]] = defaultdict(list)
    for partition, split in partitions.items():
        tables[partition.table].append(split)
        dates[partition.table].append(partition.date.isoformat())
    grid = Table("table", "days", "first", "last", header_style="bold")
    for name in ("files", "size", "replaced"):
        grid.add_column(name, justify="right")
    for table in TABLES:
        live = [file for split in tables[table] for file in split.live]
        replaced = sum(len(split.replaced) for split in tables[table])
        grid.add_row(
            table,
            str(len(set(dates[table]))),
            min(dates[table], default="-"),
            max(dates[table], default="-"),
            f"{len(live):,}",
            decimal(sum(file.size_bytes for file in live)),
            f"{replaced:,}",
        )
    Console(highlight=False).print(grid)
    due = sum(len(split.live) > 1 for each in tables.values() for split in each)
    if due or missing:
        say(
            f"partitions in pieces: {due}; archive objects not in the dataset: "
            f"{missing}. Run meshtasks analytics compact"
        )
