"""``meshtasks state``: upgrade, check, export and import the state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from meshtasks.cli.terminal import File, fail, file_or_standard, say, tell_place
from meshtasks.config.settings import load_settings
from meshtasks.errors import SchemaMismatch
from meshtasks.state.database import Database, StateLocation
from meshtasks.state.legacy import old_files
from meshtasks.state.tables import REVISION
from meshtasks.state.transfer import counts, lines_of, load

app = typer.Typer()


@contextmanager
def _opened(location: StateLocation, old_file: str = "none") -> Iterator[Database]:
    with closing(Database("state", location, old_file)) as database:
        yield database


def _location() -> StateLocation:
    """The location of the state; it is printed, too."""
    env = load_settings().env
    tell_place(env, "state_url")
    return StateLocation.of(env)


@app.command()
def upgrade() -> None:
    """Upgrade the tables to this version, and import the files of earlier versions.

    Workers do this when they start; for a large state, this command saves them the
    wait. First stop the workers of the earlier version.

    Exit codes: 0; 69 the database cannot be used, or a file of an earlier version is in
    use; 78 bad configuration.
    """
    location = _location()
    with _opened(location) as database:
        database.probe()
    for path in old_files(location.directory):
        with _opened(location, path.name) as database, database.transaction():
            say(f"imported {path}")
    say(f"{location}: revision {REVISION}")


@app.command()
def check() -> None:
    """Show location, version and content of the state. Nothing is changed.

    Exit codes: 0; 1 an upgrade is needed: meshtasks state upgrade; 69 the database
    cannot be used, or is of a newer version; 78 bad configuration.
    """
    location = _location()
    waiting = [
        f"{path}: of an earlier version, to be imported"
        for path in old_files(location.directory)
    ]
    with _opened(location) as database:
        revision = database.revision()
        if revision is None:
            say(f"{location}: no tables yet")
        elif revision != REVISION:
            database.refuse_newer(revision)
            said = f"{location}: revision {revision}, and {REVISION} is this version's"
            waiting.insert(0, said)
        else:
            with database.transaction() as connection:
                found = counts(connection)
            say(f"{location}: revision {revision}")
            for name, count in found.items():
                say(f"  {name:<20} {count:>9,}")
    say(*waiting)
    if waiting:
        fail("run meshtasks state upgrade", exit_code=1)


@app.command()
def export(file: File) -> None:
    """Write a consistent snapshot of the state to a file, one row a line. Workers can
    continue meanwhile.

    Exit codes: 0; 69 the database cannot be used; 73 the file cannot be written; 78 bad
    configuration.

    Example: meshtasks state export state.jsonl
    """
    location = _location()
    count = -1  # the first line is a header
    with (
        _opened(location) as database,
        file_or_standard(file, "wb", os.EX_CANTCREAT) as out,
    ):
        for line in lines_of(database):
            out.write(f"{line}\n".encode())
            count += 1
    say(f"{count:,} rows", err=True)


@app.command("import")
def import_(
    file: File,
    *,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Delete the content of the database first."),
    ] = False,
) -> None:
    """Import an exported file into an empty database, in one transaction. First stop
    the workers.

    To move to PostgreSQL: stop the workers, export, set MESH_STATE_URL, import, and
    start the workers again. The way back is the same.

    Exit codes: 0; 65 the file is not an export, or the database is not empty; 69 the
    database cannot be used; 78 bad configuration.
    """
    location = _location()
    with (
        _opened(location) as database,
        file_or_standard(file, "rb", os.EX_DATAERR) as lines,
    ):
        try:
            texts = (line.decode() for line in lines)
            count = load(database, texts, replace=replace)
        except SchemaMismatch as error:
            fail(f"{error}", os.EX_DATAERR)
        except UnicodeDecodeError as error:
            fail(f"{file}: {error}", os.EX_DATAERR)
    say(f"{count:,} rows in {location}")
