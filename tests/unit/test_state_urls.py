"""``MESH_STATE_URL``: what is taken for PostgreSQL, and what is not."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from meshtasks.config.environment import Environment
from meshtasks.config.settings import load_settings
from meshtasks.errors import ConfigError
from meshtasks.state.database import StateLocation
from meshtasks.text import masked

SECRET = "p@ss:w/8f3%"
USER = "mesh:p%40ss%3Aw%2F8f3%25@"


def location_of(url: str) -> StateLocation:
    return StateLocation.of(Environment(state_url=SecretStr(url)))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
@pytest.mark.parametrize(
    ("rest", "place"),
    [
        ("db:5433/mesh", "database mesh at db:5433"),
        ("[::1]:5433/mesh?sslmode=require", "database mesh at ::1:5433"),
        ("/mesh", "database mesh at this host"),
        ("/mesh?host=/run/postgresql", "database mesh at /run/postgresql"),
        ("a:5432,b:5433/mesh", "database mesh at a:5432, b:5433"),
        (
            "a,b/mesh?target_session_attrs=read-write",
            "database mesh at a, b",
        ),
    ],
)
def test_a_url_of_libpq_is_one_of_ours(scheme: str, rest: str, place: str) -> None:
    location = location_of(f"{scheme}://{USER}{rest}")

    assert location.is_shared
    assert location.url.drivername == "postgresql+psycopg"
    assert location.url.password == SECRET
    assert str(location) == place


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://mesh:8f3a@db/mesh",
        "postgresql+psycopg2://mesh:8f3a@db/mesh",
        "postgresql://mesh:8f3a@db:port/mesh",
        "postgresql://mesh:8f3a@db:0/mesh",
        "postgresql://mesh:8f3a@a:5432,b:65536/mesh",
        "postgresql://mesh:8f3a:5432/mesh",
        "postgresql://mesh:8f3@a@db/mesh",
        "postgresql://mesh:8f3a@[::1/mesh",
        "postgresql://mesh:8f3a@db",
        "postgresql://mesh:8f3a@db/",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_any_other_stops_the_start_and_is_not_quoted(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_STATE_URL", url)

    with pytest.raises(ConfigError) as refused:
        load_settings()

    assert refused.value.key == "MESH_STATE_URL"
    assert "expected postgresql+psycopg://" in refused.value.expected
    assert "8f3" not in "".join(traceback.format_exception(refused.value))


def test_the_password_is_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_STATE_URL", f"postgres://{USER}a:5432,b:5433/mesh")
    load_settings()

    assert "8f3" not in masked(f"{SECRET} and {USER}")
