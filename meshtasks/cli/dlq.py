"""``meshtasks dlq``: what died, why, and giving it back to where it came from."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from meshtasks.amqp.dead_letters import DeadLetter, Groups, Selection, dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import peek
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.cli.dlq_choice import (
    EXIT_NOT_FOUND,
    DeadLetterQueue,
    Every,
    Ids,
    NewerThan,
    OlderThan,
    Queue,
    Reason,
    RoutingKey,
    Sensor,
    find,
    opened,
    selection_of,
)
from meshtasks.cli.dlq_edit import edited_bodies
from meshtasks.cli.dlq_files import export, import_
from meshtasks.cli.dlq_replay import dry_run, replay_selected
from meshtasks.cli.dlq_view import (
    group_as_json,
    one_line,
    outcome,
    overview,
    page,
)
from meshtasks.cli.terminal import fail, say
from meshtasks.config.settings import load_settings

app = typer.Typer(
    help="Dead letters: messages that could not be processed, with the reason.",
    no_args_is_help=True,
)
app.command("export")(export)
app.command("import")(import_)

_AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_(  # noqa: PLR0913 - options
    *,
    reason: Reason = "",
    queue: Queue = "",
    routing_key: RoutingKey = "",
    sensor: Sensor = "",
    older_than: OlderThan = "",
    newer_than: NewerThan = "",
    each: Annotated[
        bool, typer.Option("--each", help="A line for every letter, with its id.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, help="Groups to show, or letters with --each.")
    ] = 50,
    as_json: _AsJson = False,
) -> None:
    """Count the dead letters by reason and queue.

    For each group: how many, what the last of them died of, when the first and the
    last died, and the id of one to look at with `meshtasks dlq show`.

    Exit codes: 0; 69 the broker cannot be reached, or somebody else is looking.
    """
    selection = selection_of(
        reason=reason,
        queue=queue,
        routing_key=routing_key,
        sensor=sensor,
        older_than=older_than,
        newer_than=newer_than,
    )
    groups, total, lines = Groups(), 0, 0

    def look_at(_delivery: Delivery, letter: DeadLetter) -> None:
        nonlocal total, lines
        if not selection.matches(letter):
            return
        total += 1
        if not each:
            groups.add(letter)
        elif lines < limit:
            lines += 1
            said = json.dumps(letter._asdict()) if as_json else one_line(letter)
            say(said)

    with opened(load_settings(), queue) as letters:
        letters.look("looking", look_at)
    if each:
        if total > lines:
            say(f"{total - lines:,} more (--limit {total})", err=True)
    elif as_json:
        for group in groups.largest_first():
            say(json.dumps(group_as_json(group), ensure_ascii=False))
    else:
        for line in overview(groups.largest_first(), total, limit):
            say(line)


@app.command()
def show(
    letter_id: Annotated[
        str, typer.Argument(metavar="ID", help="Of a letter; its beginning will do.")
    ],
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Only the body, byte for byte.")
    ] = False,
) -> None:
    """Show one dead letter: why it died, its headers, its traceback, its body.

    Exit codes: 0; 1 there is no such letter; 69 the broker cannot be reached.
    """
    with opened(load_settings()) as letters:
        (found,) = find(letters, [letter_id])
    if raw:
        sys.stdout.buffer.write(found.delivery.body)
        return
    for line in page(*found):
        say(line)


@app.command()
def replay(  # noqa: PLR0913 - options
    ids: Ids = None,
    *,
    reason: Reason = "",
    queue: Queue = "",
    routing_key: RoutingKey = "",
    sensor: Sensor = "",
    older_than: OlderThan = "",
    newer_than: NewerThan = "",
    every: Every = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="N", help="Messages a second, at most."),
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Edit the bodies in $EDITOR first.")
    ] = False,
) -> None:
    """Give dead letters back to the queue they failed in, and to no other.

    A letter is removed once its message is confirmed there, so interrupting this
    loses none. One that fails again is a dead letter again, which knows how often it
    was replayed and what it had died of before. Messages that no binding matched go
    to the queues that one leads to now, if any.

    Exit codes: 0; 1 some were kept, or there is no such letter; 69 the broker cannot
    be reached; 130 interrupted.

    Example: meshtasks dlq replay --queue sensors.temperature --reason UnknownUnit
    """
    selection = selection_of(
        ids=ids or (),
        reason=reason,
        queue=queue,
        routing_key=routing_key,
        sensor=sensor,
        older_than=older_than,
        newer_than=newer_than,
        every=every,
    )
    settings = load_settings()
    with opened(settings, queue) as letters:
        edited = None
        if edit:
            if not ids:
                message = "takes letters by their ids"
                raise typer.BadParameter(message, param_hint="--edit")
            edited = edited_bodies(find(letters, ids))
            selection = Selection(ids=frozenset(edited))
        elif ids:
            find(letters, ids)  # an id that could be that of several ends here
        if dry:
            result = dry_run(letters, selection, settings.read(TOPOLOGY))
        else:
            result = replay_selected(
                letters, selection, settings.read(TOPOLOGY), rate, edited
            )
        for line in outcome(result, dry=dry):
            say(line)
        letters.exit_if_stopped(
            "what is not given back is still a dead letter; the same command goes on"
        )
    if result.kept:
        raise typer.Exit(EXIT_NOT_FOUND)


@app.command()
def drop(  # noqa: PLR0913 - options
    ids: Ids = None,
    *,
    reason: Reason = "",
    queue: Queue = "",
    routing_key: RoutingKey = "",
    sensor: Sensor = "",
    older_than: OlderThan = "",
    newer_than: NewerThan = "",
    every: Every = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good; `meshtasks dlq export` keeps a copy.

    Exactly those are deleted that were counted when it asked. With --older-than or
    --newer-than, letters whose time nobody noted are left.

    Exit codes: 0; 1 not confirmed, or there is no such letter; 69 the broker cannot
    be reached.
    """
    selection = selection_of(
        ids=ids or (),
        reason=reason,
        queue=queue,
        routing_key=routing_key,
        sensor=sensor,
        older_than=older_than,
        newer_than=newer_than,
        every=every,
    )
    groups = Groups()
    doomed: set[int] = set()
    undated = 0

    def look_at(_delivery: Delivery, letter: DeadLetter) -> None:
        nonlocal undated
        if not selection.matches(letter):
            return
        if letter.failed_at is None and (older_than or newer_than):
            undated += 1
        else:
            groups.add(letter)
            doomed.add(int(letter.id, 16))  # a third of what the text would take

    with opened(load_settings(), queue) as letters:
        if ids:
            find(letters, ids)
        letters.look("looking", look_at)
        total = sum(group.count for group in groups.largest_first())
        if undated:
            left = f"{undated:,} of unknown age are left; choose them by other options"
            say(left, err=True)
        if not total:
            fail("no dead letter is like that", EXIT_NOT_FOUND)
        if not yes:
            for line in overview(groups.largest_first(), total, limit=20):
                say(line)
            typer.confirm(f"Delete {total:,} dead letters for good?", abort=True)
        say(f"{_delete(letters, doomed):,} deleted")


def _delete(letters: DeadLetterQueue, doomed: set[int]) -> int:
    deleted = 0
    with peek(letters.url, letters.name, stopping=letters.stopping) as held:
        for delivery in held:
            if int(dead_letter_of(delivery).id, 16) in doomed:
                held.remove([delivery.tag])
                deleted += 1
    letters.exit_if_stopped(f"{deleted:,} deleted")
    return deleted
