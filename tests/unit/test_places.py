"""A command says which place it answers for, and never with a password."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from meshtasks.cli.terminal import tell_place
from meshtasks.config.environment import Environment


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_place_is_named_with_its_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "amqp://user:hunter2@one:5672/mesh;amqps://user:hunter2@two/mesh"
    environment = Environment(
        broker_url=SecretStr(url), archive_url="s3://mesh", state_dir=tmp_path
    )

    tell_place(environment, "archive_url", "broker_url", "state_url")

    said = capsys.readouterr().err.splitlines()
    assert said == [
        "s3://mesh (MESH_ARCHIVE_URL)",
        "amqp://one:5672/mesh, amqps://two/mesh (MESH_BROKER_URL)",
        f"{tmp_path}/mesh.db (MESH_STATE_DIR)",
    ]


def test_a_database_is_named_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = SecretStr("postgresql+psycopg://mesh:hunter2@db/house")

    tell_place(Environment(state_url=url), "state_url")

    said = capsys.readouterr().err
    assert "house" in said
    assert "(MESH_STATE_URL)" in said
    assert "hunter2" not in said


def test_what_is_no_url_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    tell_place(Environment(broker_url=SecretStr("hunter2 hunter2")), "broker_url")

    assert capsys.readouterr().err == "no broker's URL (MESH_BROKER_URL)\n"


def test_beside_a_compose_file_the_place_of_its_containers_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docker-compose.yml").touch()

    tell_place(Environment(), "state_url")

    assert "docker compose run --rm tools" in capsys.readouterr().err
