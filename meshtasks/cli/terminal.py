"""Functions for all commands: output, failure, interruption, progress, times, and which
services and directories are used.

Text from outside is escaped, so that it cannot control the terminal.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NamedTuple, Never
from urllib.parse import urlsplit

import typer

from meshtasks.command_help import reflow
from meshtasks.text import masked, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from meshtasks.config.environment import Environment

#: Exit code after SIGINT, as shells report it: 128 + number of the signal.
EXIT_INTERRUPTED = 130
#: Exit code of wrong usage, as typer sets it.
EXIT_USAGE = 2
#: Exit code after SIGPIPE.
_EXIT_BROKEN_PIPE = 141
#: Errors of writing to a full or faulty disk.
_OF_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

ManagementUrl = Annotated[
    str | None,
    typer.Option(
        help="URL of RabbitMQ's management API. Default: MESH_MANAGEMENT_URL, else "
        "port 15672 of the broker's host. The account is that of MESH_BROKER_URL.",
        metavar="URL",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsJsonLines = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line.")
]

File = Annotated[
    Path,
    typer.Argument(help="File; - is standard input or output.", dir_okay=False),
]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let commands share options.

    typer sees the fields of the dataclass that the command's parameter ``options`` is,
    in the place of that parameter.
    """
    own = signature(command, eval_str=True).parameters
    kind = own["options"].annotation
    shared = signature(kind, eval_str=True).parameters

    @wraps(command)
    def run(**given: Any) -> None:
        options = kind(**{name: given.pop(name) for name in shared})
        command(options=options, **given)

    shown = [
        each.replace(kind=Parameter.KEYWORD_ONLY)
        for name, parameter in own.items()
        for each in (shared.values() if name == "options" else [parameter])
    ]
    run.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    return run


def say(*texts: str, err: bool = False) -> None:
    """Print texts, each followed by a line break; secrets are masked.

    Args:
        err: whether to print on standard error instead of standard output.
    """
    for text in texts:
        typer.echo(masked(printable(text)), err=err)


def fail(message: str, exit_code: int) -> Never:
    """Print why the command failed, and end it.

    Raises:
        typer.Exit: always, with this exit code.
    """
    say(f"meshtasks: {message}", err=True)
    raise typer.Exit(exit_code)


@contextmanager
def file_or_standard(
    file: Path, mode: Literal["rb", "wb"], exit_code: int
) -> Iterator[BinaryIO]:
    """Open a file, or for ``-`` standard input or output.

    Only the owner may read a file that is written.

    Args:
        exit_code: exit code if this fails.

    Raises:
        typer.Exit: the file cannot be read or written; the reason is printed.
    """
    is_input = mode == "rb"
    if str(file) == "-":
        yield (sys.stdin if is_input else sys.stdout).buffer
        return
    from meshtasks.config.private_files import private_opener  # noqa: PLC0415

    try:
        with open(file, mode, opener=None if is_input else private_opener) as opened:
            yield opened
    except OSError as error:
        done = "read" if is_input else "written"
        fail(f"{file} cannot be {done}: {error.strerror}", exit_code)


def run(app: typer.Typer) -> None:
    """Run a console script, on terminals of any width and encoding.

    Raises:
        SystemExit: the command has ended.
    """
    # A stream that the shell has closed (`>&-`) is None. It is opened here, since
    # otherwise the next opened file would get its descriptor.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    # Escape characters that the encoding of standard output lacks (Latin-1 has no
    # arrow), as on standard error. They would end the command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    # py-amqp logs a warning for each message in transit when a channel is closed.
    logging.getLogger("amqp").setLevel(logging.ERROR)
    # matplotlib logs warnings if it cannot keep a cache under a read-only home.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    command = typer.main.get_command(app)
    reflow(command)
    try:
        command()
    except SystemExit as end:
        # click exits after the reader of a pipe is gone (`… | head -1`).
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(_EXIT_BROKEN_PIPE)
        raise
    except OSError as error:
        if error.errno not in _OF_OUTPUT or error.filename is not None:
            raise
        say(f"meshtasks: the output cannot be written: {error.strerror}", err=True)
        # Discard the rest: flushing it at exit would fail with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(os.EX_IOERR)


def show_version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    """Print the version and end, if this is wanted.

    Raises:
        typer.Exit: the version was printed.
    """
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - imports email, slow

        say(f"meshtasks {version('meshtasks')}")
        raise typer.Exit


@contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """Set an event at SIGINT or SIGTERM during the block.

    A second signal has its usual effect.

    Yields:
        The event.
    """
    stopping = threading.Event()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(_number: int, _frame: object) -> None:
        stopping.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Counting(NamedTuple):
    """A progress bar."""

    bar: Progress
    task: TaskID

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Show the progress.

        Args:
            done: number of items that are done.
            total: number of all items; None if unknown.
            note: text beside the bar.
        """
        self.bar.update(self.task, completed=done, total=total, note=note)


@contextmanager
def counting(what: str, *, shown: bool = True) -> Iterator[Counting]:
    """Show a progress bar on standard error during the block, if it is a terminal.

    Args:
        what: label of the bar.
        shown: false for no bar.
    """
    from rich import progress  # noqa: PLC0415 - few commands show a bar
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True)
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )
    with bar:
        yield Counting(bar, bar.add_task(what, total=None, note=""))


def moment_of(text: str, now: float, option: str) -> float:
    """Epoch seconds of the time in an option, see
    :func:`meshtasks.config.durations.moment_of`.

    Args:
        option: name of the option, for the error.

    Raises:
        typer.BadParameter: the text is not a time.
    """
    from meshtasks.config import durations  # noqa: PLC0415 - pydantic

    with _bad(option):
        return durations.moment_of(text, now)


def span_of(text: str, option: str) -> float:
    """Seconds of the duration in an option, see
    :func:`meshtasks.config.durations.seconds_of`. The rest is as in :func:`moment_of`.
    """
    from meshtasks.config import durations  # noqa: PLC0415 - pydantic

    with _bad(option):
        return durations.seconds_of(text)


@contextmanager
def _bad(option: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


#: A service or directory, by the field of the environment that names it.
Place = Literal["archive_url", "broker_url", "state_url"]


def tell_place(env: Environment, *fields: Place) -> None:
    """Print on standard error which services and directories a command uses.

    If there is a docker-compose.yml and the variable is not set, the containers use
    another one: then the line says how to run the command there.

    Args:
        fields: fields of the environment; a line is printed for each.
    """
    for field in fields:
        _tell(env, field)


def _tell(env: Environment, field: Place) -> None:
    match field:
        case "archive_url":
            place, variable = env.archive_url, "MESH_ARCHIVE_URL"
            named = field in env.model_fields_set
        case "broker_url":
            place = _without_passwords(env.amqp_url)
            variable, named = "MESH_BROKER_URL", True
        case "state_url":
            from meshtasks.state.database import StateLocation  # noqa: PLC0415 - slow

            place = str(StateLocation.of(env))
            of_files = not env.state_url.get_secret_value()
            variable = "MESH_STATE_DIR" if of_files else "MESH_STATE_URL"
            named = not of_files or "state_dir" in env.model_fields_set
    text = f"{place} ({variable})"
    if not named and Path("docker-compose.yml").is_file():
        command = shlex.join(sys.argv[1:])
        text += (
            ", which is not that of the containers of docker-compose.yml; theirs: "
            f"docker compose run --rm tools {command}"
        )
    say(text, err=True)


def _without_passwords(urls: str) -> str:
    from meshtasks.config.urls import fault_of, urls_of  # noqa: PLC0415 - pydantic

    if fault_of(urls):
        return "no broker's URL"
    places = []
    for parts in map(urlsplit, urls_of(urls)):
        port = f":{parts.port}" if parts.port else ""
        places.append(f"{parts.scheme}://{parts.hostname}{port}{parts.path}")
    return ", ".join(places)
