"""Every fenced block of the documentation is what it claims to be.

A block has a kind, by the language of its fence; one of another kind fails. Commands
are parsed by the programs' own parsers, their messages and those of JSON blocks go
through the gateway's validation, YAML is added to the configuration that it is a part
of, Python and SQL run. Blocks of ``text`` show output and files.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml
from celery.bin.celery import celery
from celery.worker.control import Panel
from typer.core import TyperGroup
from typer.main import get_command

import meshtasks.celery  # noqa: F401 - registers what inspect and control know
from meshtasks.cli import app
from meshtasks.cli.config import findings
from meshtasks.config.environment import Environment
from meshtasks.config.settings import Settings
from meshtasks.flows.analytics.database import opened
from meshtasks.flows.archive.objects import open_store
from meshtasks.flows.loading import load_flows
from meshtasks.gateway.problems import Problem
from meshtasks.gateway.validation import Validator
from meshtasks.observation.explain import explain
from meshtasks.producers.__main__ import application
from tests.support.amqp import queue_depth
from tests.support.docs import PAGES, ROOT, Snippet, snippets, with_snippets
from tests.support.meshes import reconfigured

#: Parts of the package that tests/acceptance/test_installed_flow.py runs.
_OF_PACKAGE = "# mesh-tides/"
SNIPPETS = [
    snippet
    for page in PAGES
    for snippet in snippets(page)
    if not snippet.text.startswith(_OF_PACKAGE)
]

#: Files of other programs that YAML blocks are parts of.
_FOREIGN = {"prometheus.yml", "cluster-role.yaml"}
#: Programs whose options nobody here knows.
_OTHERS = {
    *(".", "export", "for", "do", "done", "echo", "sed", "mkdir"),
    *("curl", "docker", "git", "mosquitto_pub", "mosquitto_sub"),
    *("n8n", "pip", "python3", "apt-get", "systemctl", "cp", "tee", "cd"),
    *("install", "rabbitmqctl", "tar"),
}
#: Runs a command as somebody else.
_SUDO = re.compile(r"sudo(?: -u \w+)? ")
#: Messages that pages send to show what becomes of bad ones.
_REFUSED = {
    '{"sensor_id": "attic-1", "value": 21, "unit": "°X"}',
    '{"value": 50000}',
}
#: The routing keys in headings of records.md have these in the place of names.
_NAMED = {
    "kind": "temperature",
    "place": "attic",
    "domain": "light",
    "entity": "hall",
    "name": "lamp_on",
    "model": "temperature-anomaly",
    "severity": "critical",
    "source": "rules.overheating",
}
_HEADING = re.compile(r"^## .*: exchange `([^`]+)`, key `([^`]+)`", re.MULTILINE)
_HEREDOC = re.compile(r"<<'?(\w+)'?")
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*", re.DOTALL)
_GATEWAY = re.compile(r"/v1/events/([^/]+)/(\S+)")


class Message(NamedTuple):
    """A message that a page publishes."""

    exchange: str
    routing_key: str
    body: str


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Settings]:
    """Settings with what a page adds to the configuration."""
    made: dict[Path, Settings] = {}

    def settings_of(page: Path) -> Settings:
        if page not in made:
            directory = tmp_path_factory.mktemp("page") / "config"
            files = with_snippets(page, ROOT / "config")
            inside = {name: files.pop(name) for name in list(files) if "/" in name}
            shipped = {"MESH_CONFIG_DIR": str(ROOT / "config")}
            reconfigured(shipped, directory, **files)
            (directory / "producers").mkdir()
            for name, content in inside.items():
                text = yaml.safe_dump(content)
                (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
            state = directory.parent
            made[page] = Settings(
                Environment(
                    config_dir=directory,
                    state_dir=state,
                    archive_url=f"file://{state / 'archive'}",
                    secrets={"n8n": "secret"},
                )
            )
        return made[page]

    return settings_of


SettingsOf = Callable[[Path], Settings]


def of_language(*languages: str) -> pytest.MarkDecorator:
    """A test runs for each snippet in these languages."""
    chosen = [each for each in SNIPPETS if each.language in languages]
    return pytest.mark.parametrize("snippet", chosen, ids=lambda each: each.id)


def test_every_block_has_a_kind() -> None:
    known = {"sh", "yaml", "json", "python", "toml", "mermaid", "text"}

    assert [each.id for each in SNIPPETS if each.language not in known] == []


@of_language("sh")
def test_commands_are_those_of_their_programs(
    snippet: Snippet, settings_of: SettingsOf
) -> None:
    settings = settings_of(snippet.page)
    validator = Validator(settings, load_flows().handlers(settings))
    syntax = subprocess.run(
        ["bash", "-n"], input=snippet.text, text=True, capture_output=True, check=False
    )

    assert (syntax.returncode, syntax.stderr) == (0, "")
    for words in commands(_SUDO.sub("", snippet.text)):
        program = words[0].rpartition("/")[2]
        match program, words[1:]:
            case "meshtasks", arguments:
                parse(get_command(app), arguments)
                look(arguments, settings)
            case "celery", ["-A", "meshtasks", name, *arguments]:
                check_celery(name, arguments, settings)
            case "python", ["-m", "meshtasks.producers", source, *arguments]:
                parse(get_command(application(source)), [source, *arguments])
            case "make", arguments:
                check_make(arguments)
            case _:
                assert program in _OTHERS, f"nobody knows {program}"
        for message in messages(words):
            check(validator, message)


@of_language("json")
def test_json_is_json_and_records_are_taken(
    snippet: Snippet, settings_of: SettingsOf
) -> None:
    json.loads(snippet.text)
    above = "\n".join(snippet.page.read_text("utf-8").splitlines()[: snippet.line])
    if found := _HEADING.findall(above):
        exchange, key = found[-1]
        key = re.sub(r"<(\w+)>", lambda name: _NAMED[name[1]], key)
        settings = settings_of(snippet.page)
        message = Message(exchange, key, snippet.text)
        check(Validator(settings, load_flows().handlers(settings)), message)


@of_language("yaml")
def test_yaml_is_a_part_of_its_file(snippet: Snippet, settings_of: SettingsOf) -> None:
    if snippet.file in _FOREIGN:
        assert yaml.safe_load(snippet.text)
        return
    assert snippet.file.startswith("config/")
    found = findings(settings_of(snippet.page))

    assert [each for each in found if each.level != "note"] == []


@of_language("python")
def test_python_runs(
    snippet: Snippet, mesh_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mesh_env["MESH_BROKER_URL"]
    text = snippet.text.replace("amqp://user:password@broker//", url)
    assert text != snippet.text

    exec(compile(text, snippet.id, "exec"), {})

    assert queue_depth(url, "sensors.humidity") == 1


@of_language("toml")
def test_toml_is_toml(snippet: Snippet) -> None:
    assert tomllib.loads(snippet.text)


@of_language("mermaid")
def test_a_diagram_says_what_it_is(snippet: Snippet) -> None:
    assert snippet.text.split()[0] in {"flowchart", "stateDiagram-v2"}


def test_the_explanation_that_is_shown_is_the_one_that_is_printed() -> None:
    (shown,) = (
        each.text
        for each in SNIPPETS
        if each.page.name == "settings.md" and each.language == "text"
    )
    key, _, _, exchange = shown.partition("\n")[0].split()
    settings = Settings(Environment(config_dir=ROOT / "config"))
    found = explain(settings, load_flows(), exchange, key)

    printed = set(found.lines(settings.env.receivers))
    assert [line for line in shown.splitlines() if line not in printed] == []


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell script, without assignments and what is
    written to files."""
    logical = ""
    end_of_document = ""
    for line in text.splitlines():
        if end_of_document:
            end_of_document = "" if line == end_of_document else end_of_document
            continue
        logical = f"{logical.removesuffix(chr(92))}{line}\n"
        if line.endswith("\\"):
            logical = logical.removesuffix("\n")
            continue
        try:
            words = list(_lexer(logical))
        except ValueError:  # a text in quotes goes on
            continue
        if heredoc := _HEREDOC.search(logical):
            end_of_document = heredoc[1]
        logical = ""
        yield from _split(words)
    assert not logical.strip()


def _lexer(line: str) -> shlex.shlex:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return lexer


def _split(words: list[str]) -> Iterator[list[str]]:
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("|&;"):
            while command and _ASSIGNMENT.fullmatch(command[0]):
                check_variable(command.pop(0))
            if command:
                yield command
            command = []
        elif word in ("<", ">", "<<", ">>"):
            command.append(">")
        elif command and command[-1] == ">":
            command.pop()
        else:
            command.append(word)


def check_variable(assignment: str) -> None:
    variable = assignment.partition("=")[0]
    if not variable.startswith("MESH_"):  # of the script itself
        return
    name = variable.removeprefix("MESH_").lower()
    known = Environment.model_fields
    assert name.partition("__")[0].removesuffix("_file") in known, assignment


def parse(command: Any, words: list[str]) -> None:
    """Parse a command line as click would, and run nothing.

    Raises:
        UsageError: there is no such command, or it has no such option.
    """
    context = command.context_class(command)
    while isinstance(command, TyperGroup):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_context(command.name, words)


def look(arguments: list[str], settings: Settings) -> None:
    """What a command of meshtasks names is there."""
    match arguments:
        case ["config", "check", "--explain", key]:
            found = explain(settings, load_flows(), "sensors", key)
            assert not found.unroutable
        case ["query", *_, sql]:
            with (
                closing(open_store(settings.env)) as store,
                opened(settings.env, store, sql) as database,
            ):
                database.sql(sql).fetchall()
        case _:
            pass


def check_celery(name: str, arguments: list[str], settings: Settings) -> None:
    command = celery.commands[name]
    values, rest, _ = command.make_parser(click.Context(command)).parse_args(arguments)
    queues = str(values.get("queues", "")).split(",")
    if name in ("inspect", "control"):
        assert values["command"] in Panel.meta
        queues = rest if values["command"].endswith("_consumer") else []
    assert set(filter(None, queues)) <= load_flows().handlers(settings).keys()


def check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    target, *variables = arguments
    assert target in targets
    for variable in variables:
        name, _, value = variable.partition("=")
        assert name == "ARGS"
        if target == "demo":
            parse(get_command(app), ["demo", *shlex.split(value)])


def messages(words: list[str]) -> Iterator[Message]:
    """The messages that a command publishes."""
    match words:
        case [program, "publish", exchange, key, body] if program.endswith("meshtasks"):
            yield Message(exchange, key, body)
        case ["curl", *_, url] if found := _GATEWAY.search(url):
            yield Message(found[1], found[2], words[words.index("-d") + 1])
        case ["mosquitto_pub", *options]:
            named = dict(zip(options[::2], options[1::2], strict=True))
            key = named["-t"].replace("/", ".")
            yield Message(key.partition(".")[0], key, named["-m"])
        case _:
            pass


def check(validator: Validator, message: Message) -> None:
    """A message of a page is taken, or is one that is there to be refused."""
    body = message.body.strip()
    if body in _REFUSED:
        with pytest.raises(Problem):
            validator.check(message.exchange, message.routing_key, body.encode())
        return
    try:
        validator.check(message.exchange, message.routing_key, body.encode())
    except Problem as problem:
        pytest.fail(f"{message}: {problem.detail} {problem.errors}")
