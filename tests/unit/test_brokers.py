"""``MESH_BROKER_URL`` with the URLs of several nodes."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from meshtasks.amqp.connecting import node_of, unopened
from meshtasks.config.settings import load_settings
from meshtasks.config.urls import fault_of, urls_of
from meshtasks.errors import ConfigError
from meshtasks.text import masked

ONE, TWO = "amqp://mesh:secret-8f3a@one/mesh", "amqps://mesh:secret-8f3b@two/mesh"


@pytest.mark.parametrize("text", [f"{ONE};{TWO}", f" {ONE} ; {TWO} ", f"{ONE};{TWO};"])
def test_several_urls_stand_with_semicolons_between_them(text: str) -> None:
    assert urls_of(text) == (ONE, TWO)
    assert fault_of(text) == ""


@pytest.mark.parametrize(
    ("text", "which"),
    [
        (f"{ONE};{TWO};http://three/mesh", "URL 3 of 3"),
        (f"{ONE};;{TWO}", "URL 2 of 3"),
        (f"one;{TWO}", "URL 1 of 2"),
        (f"{ONE};amqp://mesh:secret;8f3c@two/mesh", "URL 2 of 3"),
        (f"{ONE};amqp://mesh:12/8f3c@two/mesh", "virtual host"),
        (f"{ONE};amqp://mesh:8f3c@two/", "virtual host"),
        (f"{ONE} {TWO}", "expected a URL"),
        ("amqp://mesh:8f3c@one,two/mesh", "expected a URL"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "_FILE"])
def test_the_one_that_cannot_be_one_is_named_and_not_quoted(
    text: str, which: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "url"
    file.write_text(text)
    variable = f"MESH_BROKER_URL{suffix}"
    monkeypatch.setenv(variable, str(file) if suffix else text)

    with pytest.raises(ConfigError) as refused:
        load_settings()

    assert refused.value.key == variable
    assert which in refused.value.expected
    said = "".join(traceback.format_exception(refused.value))
    assert "8f3" not in said


def test_the_passwords_of_all_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_BROKER_URL", f"{ONE};{TWO}")
    load_settings()
    assert "8f3" not in masked(f"{TWO} and {ONE}, secret-8f3a, secret-8f3b")


def test_nothing_of_one_url_is_taken_for_another() -> None:
    plain, secure = node_of("amqp://a:b@one:5700/mesh"), node_of("amqps://c:d@two/mesh")
    assert (plain.port, secure.port) == (5700, 5671)
    assert plain.options["ssl"] is False
    assert secure.options["ssl"] == {"server_hostname": "two"}
    assert secure.options["userid"] == "c"


def test_a_copy_of_a_connection_has_the_same_nodes() -> None:
    connection = unopened(f"{ONE};{TWO}")
    assert connection.clone().nodes == connection.nodes
    assert [node.name for node in connection.nodes] == ["one:5672", "two:5671"]
