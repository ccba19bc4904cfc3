"""meshtasks archive garage, against a stand-in for Garage's administration API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from tests.support.command import Command, command
from tests.support.garage import StandInGarage

KEY = "GK31c2f218a2e44f485b94239e"
OTHER = "GK0123456789abcdef01234567"
SECRET = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835"


@pytest.fixture
def garage() -> Iterator[StandInGarage]:
    with StandInGarage("admin-token-8f3a") as server:
        yield server


def environment(garage: StandInGarage, key: str = KEY) -> Environment:
    return Environment(
        archive_url="s3://mesh",
        minio_endpoint=garage.url.removeprefix("http://"),
        minio_access_key=SecretStr(key),
        minio_secret_key=SecretStr(SECRET),
        garage_admin_token=SecretStr("admin-token-8f3a"),
    )


@pytest.fixture
def run(
    garage: StandInGarage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    meshtasks = command(environment(garage), monkeypatch, capsys)
    return lambda *options: meshtasks(
        "archive", "garage", "--admin-url", garage.url, *options
    )


def test_a_new_server_gets_layout_bucket_and_a_key_for_it(
    garage: StandInGarage, run: Command
) -> None:
    done = run()

    assert done.exit_code == 0, done.stderr
    assert garage.roles[garage.nodes[0]]["capacity"] == 2**40
    assert garage.keys == {KEY: (SECRET, "meshtasks")}
    permissions = {"read": True, "write": True, "owner": False}
    assert garage.allowed == {(garage.buckets["mesh"], KEY): permissions}
    assert SECRET not in done.stdout + done.stderr


def test_running_it_again_changes_nothing(garage: StandInGarage, run: Command) -> None:
    run()
    made = (garage.layout_version, dict(garage.buckets), dict(garage.keys))

    again = run()

    assert (again.exit_code, again.stdout) == (0, "nothing is missing\n")
    assert (garage.layout_version, garage.buckets, garage.keys) == made


def test_a_server_that_is_not_ready_is_asked_again(
    garage: StandInGarage, run: Command
) -> None:
    garage.busy = 2
    assert run().exit_code == 0


def test_a_new_key_takes_the_place_of_the_old_one(
    garage: StandInGarage, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    monkeypatch.setenv("MESH_MINIO_ACCESS_KEY", OTHER)

    assert run().exit_code == 0
    assert garage.keys == {KEY: None, OTHER: (SECRET, "meshtasks")}


def test_keys_that_others_made_are_kept(garage: StandInGarage, run: Command) -> None:
    run()
    garage.keys[OTHER] = (SECRET, "backup")
    garage.allowed[garage.buckets["mesh"], OTHER] = {"read": True}

    assert run().exit_code == 0
    assert garage.keys[OTHER] is not None


def test_a_cluster_that_has_a_layout_keeps_it(
    garage: StandInGarage, run: Command
) -> None:
    garage.nodes.append("ab" * 32)
    garage.roles = {node: {"zone": "cellar"} for node in garage.nodes}

    assert run().exit_code == 0
    assert "UpdateClusterLayout" not in garage.operations


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MESH_ARCHIVE_URL", "file:///var/lib/mesh/archive"),
        ("MESH_MINIO_ACCESS_KEY", "a-key-made-for-minio"),
        ("MESH_MINIO_SECRET_KEY", "wrong"),
        ("MESH_GARAGE_ADMIN_TOKEN", "another"),
    ],
)
def test_what_cannot_be_right_stops_it_and_is_named(
    run: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    refused = run()

    assert refused.exit_code == 78
    assert variable in refused.stderr


@pytest.mark.parametrize("known", [None, ("0" * 64, "meshtasks")])
def test_a_key_that_garage_will_not_take_is_told_with_what_to_do(
    garage: StandInGarage, run: Command, known: tuple[str, str] | None
) -> None:
    garage.keys[KEY] = known

    refused = run()

    assert refused.exit_code == 78
    assert "meshtasks secrets" in refused.stderr


def test_several_nodes_without_a_layout_are_left_to_their_owner(
    garage: StandInGarage, run: Command
) -> None:
    garage.nodes.append("ab" * 32)
    assert run().exit_code == 78
    assert not garage.staged


def test_a_server_that_is_away_is_a_service_that_cannot_be_reached(
    garage: StandInGarage, run: Command
) -> None:
    garage.stop()
    away = run("--wait", 1)
    assert away.exit_code == 69
    assert garage.url in away.stderr


def test_an_answer_of_another_program_is_told(
    garage: StandInGarage, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garage, "serve", lambda *_: ["hello"])
    other = run()
    assert other.exit_code == 69
    assert "not Garage's" in other.stderr
