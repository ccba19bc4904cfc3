"""``meshtasks dlq``: list, show, replay, export, import and delete dead letters."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, BinaryIO

import click
import typer
from pydantic_core import from_json

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letter_groups import Groups, Selection
from meshtasks.amqp.dead_letters import DeadLetter, dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import HeldMessages
from meshtasks.amqp.publisher import Outgoing, Publisher
from meshtasks.amqp.replay import Refusal, Replay, Replayed, ReplayPlan
from meshtasks.amqp.replay import drop as drop_letters
from meshtasks.amqp.topology import TOPOLOGY, Topology
from meshtasks.cli.dlq_queue import (
    EXIT_NOT_FOUND,
    DeadLetterQueue,
    Filters,
    Found,
    IdsOrFilters,
    find,
    group_as_json,
    one_line,
    opened,
    outcome,
    overview,
    page,
)
from meshtasks.cli.terminal import (
    AsJsonLines,
    File,
    counting,
    fail,
    file_or_standard,
    say,
    with_options,
)
from meshtasks.config.settings import Settings, load_settings
from meshtasks.errors import SchemaMismatch, Transient
from meshtasks.records.json_text import body_text

app = typer.Typer()

#: Number of exported dead letters that are published together.
_BATCH = 500


@app.command()
@with_options
def export(file: File, *, options: IdsOrFilters) -> None:
    """Write dead letters to a file, one JSON object a line. They stay in the queue.

    Exit codes: 0; 1 there is no such dead letter; 69 the broker cannot be reached; 73
    the file cannot be written.

    Example: meshtasks dlq export dead.jsonl --queue sensors.temperature
    """
    # Imported here: it loads pydantic, which the other commands do not need.
    from meshtasks.observation.dead_letters import to_line  # noqa: PLC0415

    selection = options.selection()
    count = 0
    with (
        opened(load_settings(), options.queue) as letters,
        file_or_standard(file, "wb", os.EX_CANTCREAT) as target,
    ):
        if options.ids:
            find(letters, options.ids)
        for delivery, letter in letters.peek("writing"):
            if selection.matches(letter):
                target.write(to_line(delivery, letter) + b"\n")
                count += 1
    say(f"{count:,} dead letters written", err=True)


@app.command("import")
def import_(file: File) -> None:
    """Publish exported dead letters to the dead-letter queue again.

    Dead letters that are in the queue already are skipped, so an interrupted import can
    be repeated.

    Exit codes: 0; 65 a line is not from an export, and the import stopped there; 66 the
    file cannot be read; 69 the broker cannot be reached.
    """
    with (
        opened(load_settings()) as letters,
        file_or_standard(file, "rb", os.EX_NOINPUT) as source,
    ):
        put, known = _put_back(letters, source)
    say(f"{put:,} dead letters imported, {known:,} were in the queue already")


def _put_back(letters: DeadLetterQueue, source: BinaryIO) -> tuple[int, int]:
    """Publish exported dead letters that are not in the queue.

    Returns:
        Number of published dead letters, and of those that were in the queue already.

    Raises:
        typer.Exit: a line is not from an export.
    """
    # Imported here, as in export.
    from meshtasks.observation.dead_letters import from_line  # noqa: PLC0415

    ids = (int(letter.id, 16) for _, letter in letters.peek("looking"))
    there = Counter(ids)  # numbers take a third of the memory of texts
    put = known = 0
    batch: list[Outgoing] = []
    with closing(Publisher(letters.url)) as publisher:
        for number, line in enumerate(source, start=1):
            letters.exit_if_stopped(f"{put:,} dead letters were imported")
            if not line.strip():
                continue
            try:
                message = from_line(line)
            except SchemaMismatch as error:
                publisher.publish(batch)
                fail(f"line {number}: {error}", os.EX_DATAERR)
            name = int(_id_of(message), 16)
            if there[name]:
                there[name] -= 1
                known += 1
                continue
            batch.append(message)
            if len(batch) == _BATCH:
                publisher.publish(batch)
                put += len(batch)
                batch = []
        publisher.publish(batch)
    return put + len(batch), known


def _id_of(message: Outgoing) -> str:
    """The id of this message as a dead letter."""
    table: dict[str, Any] = message.headers or {}
    properties = {**(message.properties or {}), "application_headers": table}
    return dead_letter_of(
        Delivery(
            0,
            message.body,
            str(table.get(headers.EXCHANGE, message.exchange)),
            str(table.get(headers.ROUTING_KEY, message.routing_key)),
            properties,
            redelivered=False,
            received_at=0.0,
        )
    ).id


@app.command("list")
@with_options
def list_(
    *,
    options: Filters,
    each: Annotated[
        bool, typer.Option("--each", help="Show each dead letter, with its id.")
    ] = False,
    limit: Annotated[
        int,
        typer.Option(
            min=1, help="Number of groups or, with --each, of dead letters to show."
        ),
    ] = 50,
    as_json: AsJsonLines = False,
) -> None:
    """Show the dead letters by reason and queue.

    Each group has its count, the reason of the latest, the times of the first and the
    latest failure, and the id of an example for `meshtasks dlq show`.

    Exit codes: 0; 69 the broker cannot be reached, or another command is reading the
    queue.
    """
    selection = options.selection()
    groups = Groups()
    with opened(load_settings(), options.queue) as letters:
        found = (
            letter for _, letter in letters.peek("looking") if selection.matches(letter)
        )
        if each:
            _list_each(found, limit, as_json=as_json)
            return
        for letter in found:
            groups.add(letter)
    if as_json:
        for group in groups.largest_first():
            say(json.dumps(group_as_json(group), ensure_ascii=False))
    else:
        say(*overview(groups.largest_first(), groups.total, limit))


def _list_each(found: Iterator[DeadLetter], limit: int, *, as_json: bool) -> None:
    for letter in islice(found, limit):
        say(json.dumps(letter._asdict()) if as_json else one_line(letter))
    if more := sum(1 for _ in found):
        say(f"{more:,} more (--limit {limit + more})", err=True)


@app.command()
def show(
    letter_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="Id of a dead letter, or its beginning."),
    ],
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print only the body, unchanged.")
    ] = False,
) -> None:
    """Show one dead letter: its reason, headers, traceback and body.

    Exit codes: 0; 1 there is no such dead letter; 69 the broker cannot be reached.
    """
    with opened(load_settings()) as letters:
        (found,) = find(letters, [letter_id])
    if raw:
        sys.stdout.buffer.write(found.delivery.body)
        return
    say(*page(*found))


@app.command()
@with_options
def replay(
    *,
    options: IdsOrFilters,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be replayed, and publish nothing."
        ),
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1, metavar="N", help="Maximum rate, in messages per second."
        ),
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Edit the bodies in $EDITOR first.")
    ] = False,
    would_succeed: Annotated[
        bool,
        typer.Option(
            "--would-succeed",
            help="Replay only messages that their queue would accept now; without "
            "other options, of all dead letters.",
        ),
    ] = False,
) -> None:
    """Publish dead letters to the queue in which they failed, and to no other.

    A dead letter is removed after the broker has confirmed its publish, so an
    interrupted replay loses none. A message that fails again is a dead letter again,
    with its earlier reasons and the number of replays. Of each cause a few go first; if
    they fail again, the others of that cause are kept. Messages that matched no binding
    go to the queues of the bindings that match now, if any.

    Exit codes: 0; 1 some were kept or failed again, or nothing was selected; 69 the
    broker cannot be reached; 130 interrupted.

    Example: meshtasks dlq replay --queue sensors.temperature --reason UnknownUnit
    """
    selection = replace(options, every=options.every or would_succeed).selection()
    if edit and not options.ids:
        message = "takes dead letters by their ids"
        raise typer.BadParameter(message, param_hint="--edit")
    settings = load_settings()
    topology = settings.read(TOPOLOGY)
    refusal = _refusal(settings) if would_succeed and not edit else None
    with opened(settings, options.queue) as letters:
        # It ends the command if an id is ambiguous.
        found = find(letters, options.ids) if options.ids else []
        edited = None
        if edit:
            edited = {each.letter.id: _edited(each) for each in found}
            selection = Selection(ids=frozenset(edited))
        if dry:
            result = _dry_run(letters, selection, topology, refusal)
        else:
            result = _replay(letters, selection, topology, rate, edited, refusal)
        say(*outcome(result, dry=dry))
        letters.exit_if_stopped(
            "the others are still dead letters; run the same command again to continue"
        )
    if result.kept or result.failed_again:
        raise typer.Exit(EXIT_NOT_FOUND)


@app.command()
@with_options
def drop(
    *,
    options: IdsOrFilters,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete dead letters. `meshtasks dlq export` keeps a copy.

    Only dead letters that were counted before the question are deleted. With
    --older-than or --newer-than, dead letters without a time of failure are kept.

    Exit codes: 0; 1 not confirmed, or there is no such dead letter; 69 the broker
    cannot be reached.
    """
    selection = options.selection()
    groups = Groups()
    chosen: set[int] = set()
    undated = 0
    with opened(load_settings(), options.queue) as letters:
        if options.ids:
            find(letters, options.ids)
        for _, letter in letters.peek("looking"):
            if not selection.matches(letter):
                continue
            if letter.failed_at is None and (options.older_than or options.newer_than):
                undated += 1
            else:
                groups.add(letter)
                chosen.add(int(letter.id, 16))  # a third of the memory of the text
        total = groups.total
        if undated:
            left = f"{undated:,} of unknown age are left; choose them by other options"
            say(left, err=True)
        if not total:
            fail("no dead letter matches", EXIT_NOT_FOUND)
        if not yes:
            say(*overview(groups.largest_first(), total, limit=20))
            typer.confirm(f"Delete {total:,} dead letters?", abort=True)
        say(f"{_delete(letters, chosen):,} deleted")


def _delete(letters: DeadLetterQueue, chosen: set[int]) -> int:
    deleted = drop_letters(
        letters.url,
        letters.name,
        lambda letter: int(letter.id, 16) in chosen,
        letters.stopping,
    )
    letters.exit_if_stopped(f"{deleted:,} deleted")
    return deleted


def _refusal(settings: Settings) -> Refusal:
    """A function that says why a dead letter would fail again, by its handler."""
    # Imported here: it takes a third of a second, and other commands do not need it.
    from meshtasks.flows.loading import load_flows  # noqa: PLC0415
    from meshtasks.observation.verdicts import Verdicts  # noqa: PLC0415

    return Verdicts(settings, load_flows().handlers(settings)).refusal


def _replay(
    letters: DeadLetterQueue,
    selection: Selection,
    topology: Topology,
    rate: float | None,
    edited: Mapping[str, bytes] | None,
    refusal: Refusal | None,
) -> Replayed:
    """Replay, with a progress bar.

    Raises:
        typer.Exit: the connection to the broker was lost.
    """
    with counting("replaying") as bar:

        def show(result: Replayed, held: HeldMessages) -> None:
            note = f"{result.requeued.total():,} requeued"
            bar.update(held.seen, held.total, note)

        run = Replay(
            letters.url,
            letters.name,
            selection,
            topology,
            rate=rate,
            edited=edited,
            refusal=refusal,
            stopping=letters.stopping,
            on_progress=show,
        )
        try:
            return run.run()
        except Transient as error:
            done = run.result.requeued.total()
            fail(
                f"{error}. {done:,} dead letters were requeued, perhaps a few more; "
                "the others are still dead letters. Run the same command again to "
                "continue.",
                os.EX_UNAVAILABLE,
            )


def _dry_run(
    letters: DeadLetterQueue,
    selection: Selection,
    topology: Topology,
    refusal: Refusal | None,
) -> Replayed:
    """The result that a replay would have now."""
    plan = ReplayPlan(selection, topology, refusal)
    for delivery, letter in letters.peek("looking"):
        plan.add(delivery, letter)
    return plan.result(letters.url)


def _edited(found: Found) -> bytes:
    """Let the user edit the body of a dead letter until it is JSON.

    Raises:
        typer.Exit: there is no editor, or the edited body is empty or not JSON.
    """
    text = body_text(found.delivery.body)
    while True:
        try:
            text = click.edit(text, extension=".json", require_save=False) or ""
        except click.ClickException as error:
            fail(f"{error.format_message()} (set EDITOR)", os.EX_USAGE)
        if not text.strip():
            fail("the body was left empty; nothing was replayed", os.EX_DATAERR)
        try:
            from_json(text, allow_inf_nan=False)
        except ValueError as error:
            say(f"not JSON: {error}", err=True)
            if not typer.confirm("Edit it again?", default=True, err=True):
                fail("nothing was replayed", os.EX_DATAERR)
        else:
            return text.strip().encode()
