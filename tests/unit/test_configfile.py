"""What is said of a YAML file that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from meshtasks.amqp.queues import QueuesConfig
from meshtasks.config.environment import Environment
from meshtasks.config.loader import fault_in, load_yaml
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: Annotated[int, Field(gt=0)] = 1


class Box(BaseModel):
    items: Annotated[tuple[Item, ...], Field(min_length=1)] = ()
    by_queue: dict[str, Item] = {}


def faults(
    tmp_path: Path, text: str, model: type[BaseModel] = Box
) -> list[tuple[int | None, str]]:
    """Line and key of each fault."""
    path = tmp_path / "box.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(path, model)
    error = caught.value
    return [(each.line, each.key) for each in (error, *error.more)]


def test_every_fault_has_its_line(tmp_path: Path) -> None:
    text = """\
        items:
          - name: one
            size: 0
          - {name: two, size: x}
          - size: 3
            colour: red
    """

    assert faults(tmp_path, text) == [
        (3, "items.0.size"),
        (4, "items.1.size"),
        (5, "items.2.name"),  # where it should stand
        (6, "items.2.colour"),
    ]


def test_a_name_may_hold_dots(tmp_path: Path) -> None:
    text = """\
        by_queue:
          sensors: {name: a}
          sensors.motion:
            name: b
            size: 0
    """

    assert faults(tmp_path, text) == [(5, "by_queue.sensors.motion.size")]


def test_a_misspelt_key_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    path.write_text("items: [{name: a, sise: 2}]")

    with pytest.raises(ConfigError, match=r"no such key; did you mean size\?"):
        load_yaml(path, Box)


class Waiting(BaseModel):
    wait_seconds: float
    text: str = ""


@pytest.mark.parametrize(("written", "seconds"), [("900", 900), ("30m", 1800)])
def test_seconds_may_be_written_as_a_span(
    tmp_path: Path, written: str, seconds: float
) -> None:
    path = tmp_path / "waiting.yaml"
    path.write_text(f"wait_seconds: {written}\ntext: 30m")

    assert load_yaml(path, Waiting) == Waiting(wait_seconds=seconds, text="30m")


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    text = """\
        by_queue:
          a: {name: a}
          a: {name: b}
    """

    assert faults(tmp_path, text) == [(3, "by_queue.a")]


def test_a_default_is_complained_of_once(tmp_path: Path) -> None:
    text = """\
        defaults:
          batch: {count: 0}
        queues:
          sensors.motion: {}
          sensors.humidity: {}
    """

    assert faults(tmp_path, text, QueuesConfig) == [(2, "defaults.batch.count")]


def test_what_is_not_yaml_is_refused_with_the_line(tmp_path: Path) -> None:
    assert faults(tmp_path, "items:\n  - [1\nby_queue: {}\n") == [(3, "-")]


def test_an_anchor_within_itself_ends(tmp_path: Path) -> None:
    assert faults(tmp_path, "items: &a [*a]\n")[0][1].startswith("items.0")


def test_the_text_of_an_error_begins_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    path.write_text("items: []\nby_queue:\n  a.b:\n    name: x\n", encoding="utf-8")

    error = fault_in(path, "by_queue.a.b.name", "a nicer name")

    assert str(error) == f"{path}:4: by_queue.a.b.name: a nicer name"


class Anything(BaseModel):
    value: Any


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-3", 0.001),
        ("1E6", 1e6),
        ("1_048_576", 1_048_576),
        ("010", 10),
        ("0o17", 15),
        ("0x1f", 31),
        ("-.5", -0.5),
        ("22:00", "22:00"),
        ("2026-11-28", "2026-11-28"),
        ("on", "on"),
        ("No", "No"),
        ("1.2.3", "1.2.3"),
        ("~", None),
        ("TRUE", True),
    ],
)
def test_a_word_means_what_it_does_in_yaml_1_2(
    tmp_path: Path, written: str, value: object
) -> None:
    path = tmp_path / "box.yaml"
    path.write_text(f"value: {written}\n", encoding="utf-8")

    assert load_yaml(path, Anything).value == value


@pytest.mark.parametrize("written", ["!!int abc", "!!bool 1", "9" * 5_000, "!!set {a}"])
def test_what_yaml_cannot_make_is_refused_with_its_line(
    tmp_path: Path, written: str
) -> None:
    path = tmp_path / "box.yaml"
    path.write_text(f"\nvalue: {written}\n", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"box\.yaml:2: -: expected readable YAML"):
        load_yaml(path, Anything)


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"false\n", 1, "expected keys and values, got false"),
        (b"[]\n", 1, "expected keys and values"),
        (b"items:\n\t- {name: a}\n", 2, r'"\t"; indent with spaces'),
        (b"items:\n  - {name: %}\n", 2, '"%"; put the text in quotes'),
        (b"items:\n  - {name: a\0}\n", 2, "the control character U+0000"),
        ("items:\n  - {name: ä}\n".encode("latin-1"), 2, "there is the byte 0xe4"),
        ("items: []\n".encode("utf-16"), 1, "there is UTF-16"),
        (b"by_queue:\n  42: {name: a}\n", 2, "a key that is text, got the number 42"),
        (b"items:\n  - {name: 5}\n", 2, "expected text, got the number 5"),
        (b"by_queue:\n", 1, "expected keys and values, got nothing"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_what_was_expected(
    tmp_path: Path, content: bytes, line: int, said: str
) -> None:
    path = tmp_path / "box.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        load_yaml(path, Box)

    assert caught.value.line == line
    assert said in str(caught.value)


def test_brackets_by_the_thousand_are_a_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "box.yaml"
    path.write_bytes(b"items: " + b"[" * 100_000)

    # The second is libyaml's own limit, from 0.2.6 on.
    with pytest.raises(ConfigError, match=r"1,000 levels|maximum nesting depth"):
        load_yaml(path, Box)


@pytest.mark.parametrize("kind", ["directory", "pipe", "device"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "box.yaml"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to("/dev/zero")

    with pytest.raises(ConfigError, match="expected a file, not a directory"):
        load_yaml(path, Box)


def test_a_link_that_leads_nowhere_is_not_taken_for_a_missing_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "rules.yaml").symlink_to(tmp_path / "gone.yaml")

    with pytest.raises(ConfigError, match=r"rules\.yaml: -: .* a link to .*gone\.yaml"):
        Environment(config_dir=tmp_path).config_file("rules.yaml")


def test_a_fault_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "box.yaml").write_text("items: [{}, {}]\n")
    settings = Settings(Environment(config_dir=tmp_path))

    with pytest.raises(ConfigError) as caught:
        settings.validate([ConfigFile("box.yaml", Box)])

    keys = [each.key for each in (caught.value, *caught.value.more)]
    assert keys == ["items.0.name", "items.1.name"]
